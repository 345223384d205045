"""Weights files from elsewhere: exact when they fit, one clear error when they do not."""

import zipfile
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from qgraft.errors import ConfigError, WeightsError
from qgraft.grafting import graft
from qgraft.trunks.npz_weights import find_weights, load_npz
from qgraft.trunks.orientations import oriented
from qgraft.trunks.pretrained import FEATURES, STANDARDISE
from qgraft.trunks.registry import TRUNKS, build_trunk, load_pretrained, require_weights


def network():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4), nn.Linear(4, 2)
    )


def made_up(model, seed=0):
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            shape, out = tuple(layer.weight.shape), len(layer.weight)
            arrays[f"{name}.weight_int8"] = rng.integers(-127, 128, shape).astype(np.int8)
            arrays[f"{name}.weight_scale"] = rng.uniform(0.001, 0.01, out).astype(np.float32)
            arrays[f"{name}.bias"] = rng.normal(size=out).astype(np.float32)
    return arrays


def saved(path, arrays):
    np.savez(path, **arrays)
    return path


def test_a_weight_is_its_int8_times_the_scale_of_its_channel(tmp_path):
    model = network()
    arrays = made_up(model)
    load_npz(model, saved(tmp_path / "w.npz", {**arrays, "classifier.bias": np.zeros(9)}))
    for name in ("0", "2", "3"):
        weight = model.get_submodule(name).weight.detach().numpy()
        for channel, (scale, integers) in enumerate(
            zip(arrays[f"{name}.weight_scale"], arrays[f"{name}.weight_int8"], strict=True)
        ):
            np.testing.assert_array_equal(weight[channel], integers * scale)
        np.testing.assert_array_equal(
            model.get_submodule(name).bias.detach(), arrays[f"{name}.bias"]
        )


HOSTILE = {
    "absent": lambda a: a.pop("2.bias"),
    "too_long": lambda a: a.update({"2.bias": np.zeros(1000, np.float32)}),
    "a_scalar": lambda a: a.update({"2.bias": np.float32(1)}),
    "transposed": lambda a: a.update({"3.weight_int8": a["3.weight_int8"].T}),
    "doubles": lambda a: a.update({"0.bias": a["0.bias"].astype(np.float64)}),
    "not_a_number": lambda a: a.update({"0.weight_scale": a["0.weight_scale"] * np.nan}),
    "pickled": lambda a: a.update({"0.bias": np.array([object()] * 4)}),
    "enormous": lambda a: a.update({"0.weight_int8": np.zeros((4, 3, 3, 30000), np.int8)}),
}


@pytest.mark.parametrize("fault", HOSTILE)
def test_arrays_that_do_not_fit_change_nothing(tmp_path, fault):
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    arrays = made_up(model)
    HOSTILE[fault](arrays)
    file = tmp_path / "w.npz"
    np.savez_compressed(file, **arrays)
    with pytest.raises(WeightsError, match=r"w\.npz does not hold the weights of my network: "):
        load_npz(model, file, what="my network")
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04", b"\x80\x04pickle"])
def test_files_that_are_no_archive(tmp_path, content):
    file = tmp_path / "w.npz"
    file.write_bytes(content)
    with pytest.raises(WeightsError, match="does not hold the weights of this network"):
        load_npz(network(), file)


def test_archives_cut_off_or_with_flipped_bytes(tmp_path):
    """Never anything but a WeightsError, or weights that are finite."""
    content = saved(tmp_path / "good.npz", made_up(network())).read_bytes()
    rng = np.random.default_rng(0)
    file = tmp_path / "w.npz"
    for _ in range(150):
        damaged = bytearray(
            content[: rng.integers(len(content))] if rng.random() < 0.3 else content
        )
        for place in rng.integers(len(damaged), size=3) if damaged else ():
            damaged[place] ^= 1 << rng.integers(8)
        file.write_bytes(damaged)
        model = network()
        try:
            load_npz(model, file)
        except WeightsError:
            continue
        assert all(torch.isfinite(p).all() for p in model.parameters())


def test_names_that_lie_about_their_content(tmp_path):
    file = tmp_path / "w.npz"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("0.weight_int8.npy", bytes(200))
    with pytest.raises(WeightsError, match="does not hold the weights"):
        load_npz(network(), file)


def test_no_file(tmp_path):
    with pytest.raises(WeightsError, match=r"weights file .*none\.npz does not exist"):
        load_npz(network(), tmp_path / "none.npz")


def test_float_weights_are_taken_as_they_are(tmp_path):
    model, other = network(), network()
    arrays = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    load_npz(other, saved(tmp_path / "w.npz", arrays))
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])


def test_where_weights_are_looked_for(tmp_path, monkeypatch):
    monkeypatch.delenv("QGRAFT_DATA", raising=False)
    with pytest.raises(WeightsError, match=r"Net starts from .* none was given; name them with"):
        find_weights("Net", "net.npz", None)
    monkeypatch.setenv("QGRAFT_DATA", str(tmp_path))
    with pytest.raises(WeightsError, match=r"weights is not a file; .* set QGRAFT_DATA"):
        find_weights("Net", "net.npz", None)
    folder = tmp_path / "weights"
    folder.mkdir()
    with pytest.raises(WeightsError, match=r"net\.npz is not a file"):
        find_weights("Net", "net.npz", None)
    (folder / "net.npz").write_bytes(b"x")
    for given in (None, str(folder), str(folder / "net.npz")):
        assert find_weights("Net", "net.npz", given) == folder / "net.npz"
    with pytest.raises(WeightsError, match=r"mine\.npz is not a file"):
        find_weights("Net", "net.npz", "mine.npz")


@pytest.mark.parametrize("name", ["mobilenetv2", "resnet18", "mobilenetv2+resnet18"])
def test_pretrained_trunks_have_no_up_and_can_be_grafted(name):
    model = build_trunk(name).eval()
    images = torch.rand(1, 1, 120, 120)
    grafted = graft(model, "all", sample=images)
    with torch.no_grad():
        expected = grafted.features(images)
        for orientation in (1, 6):  # all eight: test_orientations.py
            turned = grafted.features(oriented(images, orientation))
            torch.testing.assert_close(turned, expected, rtol=1e-3, atol=1e-4)
    report = grafted.parameter_report()
    widths = (expected.shape[1], 256, 64, 2)
    assert report.removed == sum((n_in + 1) * n_out for n_in, n_out in pairwise(widths))
    assert TRUNKS[name].n_dense == 3


def test_missing_weights_are_found_out_at_once(monkeypatch):
    monkeypatch.delenv("QGRAFT_DATA", raising=False)
    require_weights(["cm1", "cm2"], None)
    with pytest.raises(WeightsError, match="ResNet18 starts from pretrained weights"):
        require_weights(["cm2", "resnet18"], None)
    with pytest.raises(ConfigError, match=r"unknown network 'vgg'; choose one of cm1"):
        build_trunk("vgg")


def test_two_networks_lie_side_by_side_with_their_own_weights(tmp_path):
    """The features of the pair are those of its members, each from its own file."""
    alone = {name: build_trunk(name).eval() for name in ("mobilenetv2", "resnet18")}
    pair = build_trunk("mobilenetv2+resnet18").eval()
    for seed, (name, model) in enumerate(alone.items()):
        saved(tmp_path / TRUNKS[name].weights[0], made_up(model[FEATURES].network, seed))
        load_pretrained(name, model, str(tmp_path))
    load_pretrained("mobilenetv2+resnet18", pair, str(tmp_path))
    images = torch.rand(2, 1, 100, 100)
    with torch.no_grad():
        expected = [model[:STANDARDISE](images) for model in alone.values()]
        found = pair[:STANDARDISE](images)
    torch.testing.assert_close(found, torch.cat(expected, 1))
    assert found.shape == (2, 352 + 448)
    (tmp_path / TRUNKS["resnet18"].weights[0]).unlink()
    with pytest.raises(WeightsError, match=r"MobileNetV2\+ResNet18 starts from .*resnet18_"):
        require_weights(["mobilenetv2+resnet18"], str(tmp_path))
    one = str(tmp_path / TRUNKS["mobilenetv2"].weights[0])
    with pytest.raises(WeightsError, match=r"not hold the weights of MobileNetV2\+ResNet18"):
        load_pretrained("mobilenetv2+resnet18", pair, one)
