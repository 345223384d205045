"""Pretrained networks in the studies: frozen or tuned, resumed, reused; and the task of types."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from qgraft.config import FitConfig, SurfaceConfig, resolve
from qgraft.data.imageset import Box, Photographs
from qgraft.data.surface import TYPE_SIDE, surface_images, type_images
from qgraft.data.synthetic import synthetic_steel
from qgraft.errors import ConfigError, DataError, WeightsError
from qgraft.reports import write_report
from qgraft.studies.classical import image_tensor
from qgraft.studies.fit import read_images
from qgraft.studies.predict import load_fitted, predict
from qgraft.studies.run import open_run
from qgraft.studies.surface import hybrids_of, read_photographs, run_surface
from qgraft.trunks import features as feature_cache
from qgraft.trunks import registry
from qgraft.trunks.pretrained import FEATURES
from qgraft.trunks.registry import TRUNKS, build_trunk
from qgraft.trunks.resnet import ResNet18

PHOTOGRAPHS = synthetic_steel(7, seed=3)


@pytest.fixture(autouse=True)
def _small_network(monkeypatch):
    monkeypatch.setattr(registry, "RESNET_STAGES", (1,))
    monkeypatch.setattr(registry, "SIDE", 32)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Return a file of made-up weights for the first stage of ResNet18."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "made-up.npz"
    np.savez(path, **{k: v.detach().numpy() for k, v in ResNet18((1,)).named_parameters()})
    return path


def settings(weights, **changes):
    small = {
        "data": "synthetic",
        "models": ("resnet18",),
        "weights": str(weights),
        "inits": 1,
        "head_epochs": 3,
        "folds": 3,
        "controls": False,
        "head_seeds": 1,
        "per_class": 36,
    }
    return resolve(SurfaceConfig, {**small, **changes})


def run(folder, config, *, resume=False, **options):
    opened = open_run(folder, config.model_dump(mode="json"), resume=resume, **options)
    return run_surface(opened, PHOTOGRAPHS, config)


@pytest.fixture(scope="module")
def frozen_run(tmp_path_factory, weights):
    """Return the folder of a finished run of the frozen network."""
    folder = tmp_path_factory.mktemp("runs") / "frozen"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "RESNET_STAGES", (1,))
        patch.setattr(registry, "SIDE", 32)
        run(folder, settings(weights))
    return folder


def test_every_dense_layer_can_be_grafted(frozen_run):
    result = json.loads((frozen_run / "result.json").read_text())
    names = [(row["model"], row["variant"]) for row in result["rows"]]
    assert names == [("ResNet18", v) for v in ("classical", "last-1", "last-2", "last-3")]
    assert [row["n_features"] for row in result["rows"]] == [0, 64, 256, 64]
    assert all(row["published_params"] is None for row in result["rows"])
    assert any("ImageNet" in note for note in result["notes"])
    assert [h.replace_last for h in hybrids_of("mobilenetv2", "published")] == [1, 2, 3]


def test_the_frozen_network_is_the_one_of_the_file(frozen_run, weights):
    from qgraft.training.checkpoint import load_tensors

    tensors = load_tensors(frozen_run / "trunks" / "resnet18" / "init-0.safetensors")
    with np.load(weights) as arrays:
        for name in arrays:
            np.testing.assert_array_equal(tensors[f"model.1.network.{name}"], arrays[name])


def test_a_finished_run_predicts_without_the_weights_file(frozen_run, tmp_path, monkeypatch):
    monkeypatch.delenv("QGRAFT_DATA", raising=False)
    images = surface_images(PHOTOGRAPHS, protocol="clean", per_class=36, seed=0)
    with np.load(frozen_run / "predictions.npz") as arrays:
        held, scores = arrays["ResNet18__last-2.index"], arrays["ResNet18__last-2.scores"]
    paths = [tmp_path / f"{i}.png" for i in held]
    for i, path in zip(held, paths, strict=True):
        Image.fromarray(images.images[i]).save(path)
    rows = list(predict(load_fitted(frozen_run, "ResNet18/last-2"), paths))
    np.testing.assert_allclose([row["pred_score"] for row in rows], scores, atol=1e-5)


def test_predictions_do_not_depend_on_how_the_image_lies(frozen_run):
    model = load_fitted(frozen_run, "ResNet18/last-3").model
    images = surface_images(PHOTOGRAPHS, protocol="clean", per_class=4, seed=0)
    pixels = image_tensor(images).float() / 255
    with torch.no_grad():
        torch.testing.assert_close(model(pixels.rot90(1, (2, 3))), model(pixels), rtol=0, atol=1e-4)


def test_convolutions_run_once_for_all_grafts(weights, tmp_path, monkeypatch):
    computed = []
    monkeypatch.setenv("QGRAFT_CACHE", str(tmp_path / "cache"))
    real = feature_cache.predict_logits

    def counting(trunk, inputs, **options):
        computed.append(inputs.ndim)
        return real(trunk, inputs, **options)

    monkeypatch.setattr(feature_cache, "predict_logits", counting)
    run(tmp_path / "run", settings(weights, inits=2))
    assert computed.count(4) == 1  # images; everything else starts from features


class StoppedError(Exception):
    """Stands for a run that dies."""


def test_a_tuned_network_resumes_to_the_same_bits(weights, tmp_path, monkeypatch):
    from qgraft.training import kept

    monkeypatch.setattr(kept, "STORE_EVERY_S", 0.0)
    config = settings(weights, tune_epochs=3)
    calls = 0

    def stop(done, total, note):
        nonlocal calls
        calls += 1
        if calls == 2:
            raise StoppedError

    run(tmp_path / "whole", config)
    with pytest.raises(StoppedError):
        run(tmp_path / "parted", config, progress=stop)
    run(tmp_path / "parted", config, resume=True)
    for name in ("result.json", "curves.json", "predictions.npz"):
        assert (tmp_path / "parted" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    curves = json.loads((tmp_path / "whole" / "curves.json").read_text())
    assert len(curves["ResNet18/classical"][0]) == 3


def test_two_networks_side_by_side_are_tuned_grafted_and_used(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "MOBILENET_DEPTHS", (3,))
    torch.manual_seed(0)
    both = build_trunk("mobilenetv2+resnet18")[FEATURES].network.networks
    for network, file in zip(both, TRUNKS["mobilenetv2+resnet18"].weights, strict=True):
        arrays = {name: value.detach().numpy() for name, value in network.named_parameters()}
        np.savez(tmp_path / file, **arrays)
    config = settings(tmp_path, models=("mobilenetv2+resnet18",), tune_epochs=1, head_epochs=1)
    result = run(tmp_path / "run", config)
    assert [row["n_features"] for row in result["rows"]] == [0, 64, 256, 24 + 64]
    model = load_fitted(tmp_path / "run", "MobileNetV2+ResNet18/last-3").model
    for network, before in zip(model.trunk[FEATURES].network.networks, both, strict=True):
        assert not torch.equal(next(network.parameters()), next(before.parameters()))


def test_missing_weights_stop_a_study_before_it_starts(tmp_path, monkeypatch):
    monkeypatch.delenv("QGRAFT_DATA", raising=False)
    with pytest.raises(WeightsError, match="ResNet18 starts from pretrained weights"):
        read_photographs(settings(tmp_path / "none.npz"))
    config = resolve(FitConfig, {"data": str(tmp_path), "trunk": "mobilenetv2"})
    with pytest.raises(WeightsError, match="MobileNetV2 starts from pretrained weights"):
        read_images(config)


def test_weights_of_another_network_stop_a_study(weights, tmp_path):
    with pytest.raises(WeightsError, match=r"does not hold the weights of MobileNetV2"):
        run(tmp_path / "run", settings(weights, models=("mobilenetv2",)))


def test_types_are_cut_once_per_photograph_and_type():
    grey = [np.full((200, 200), 10 * i, dtype=np.uint8) for i in range(4)]
    a, b = "scratches", "patches"
    boxes = (
        (Box(0, 0, 30, 30, a), Box(50, 50, 150, 150, a)),
        (Box(0, 0, 30, 30, b), Box(90, 90, 100, 100, a)),
        (Box(0, 0, 30, 30, "rust"), Box(10, 10, 20, 20, b)),
        (),
    )
    source = Photographs(grey, (a, b, b, a), boxes, ("a_1", "b_1", "b_2", "a_2"))
    images = type_images(source, seed=0)
    assert images.class_names == (b, a)
    assert images.labels.tolist() == [1, 0, 1, 0]
    assert images.groups.tolist() == [0, 1, 1, 2]
    assert images.images.shape == (4, 200, 200)
    for name in images.names:
        assert name.endswith(f",{TYPE_SIDE}")
    x, y, side = map(int, images.names[0].split("#")[1].split(","))
    shown = (min(x + side, 150) - max(x, 50)) * (min(y + side, 150) - max(y, 50))
    assert shown >= 0.5 * side * side  # the larger box of the two, at least half
    assert type_images(source, seed=0).digest() == images.digest()
    with pytest.raises(DataError, match="needs at least 2 of them, got patches"):
        type_images(Photographs(grey, (b,) * 4, boxes, source.names), seed=0)


def test_the_task_of_types_end_to_end(weights, tmp_path):
    config = settings(weights, task="types", data="synthetic")
    result = run(tmp_path / "run", config)
    types = result["data"]["class_names"]
    assert len(types) == len(set(PHOTOGRAPHS.defects)) > 2
    for row in result["rows"]:
        assert np.shape(row["confusion"]) == (len(types), len(types))
        assert 0 <= row["f1_mean"] <= 1
    assert any("type of its box" in note for note in result["notes"])
    data = json.loads((tmp_path / "run" / "data.json").read_text())
    groups = type_images(PHOTOGRAPHS, seed=0).groups
    held, inside = (set(groups[data["splits"][part]]) for part in ("holdout", "train"))
    assert held
    assert not held & inside
    assert types[0] in write_report(tmp_path / "run").read_text()


def test_types_have_one_protocol(weights):
    with pytest.raises(ConfigError, match="'types' was not published: it has protocol 'clean'"):
        read_photographs(settings(weights, task="types", protocol="paper"))
