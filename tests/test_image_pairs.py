"""Ants, bees and CIFAR pairs with a small stand-in for the trained network."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from qgraft.cli import app
from qgraft.config import ImagePairConfig
from qgraft.data.crops import centre_crop, load_views
from qgraft.errors import DataError, WeightsError
from qgraft.studies import image_pairs
from qgraft.studies.image_pairs import (
    ants_and_bees,
    cifar_tasks,
    contestants_for,
    depth_scores,
    run_image_pairs,
    selected,
    simplest_good,
    smaller,
)
from qgraft.studies.run import open_run
from qgraft.training.loop import Samples
from qgraft.trunks.photographs import MirrorMean, PhotographTrunk, ViewMean, photograph_trunk

RNG = np.random.default_rng(0)


def picture(label, side=40):
    pixels = RNG.integers(0, 120, (side, side + 6, 3), dtype=np.uint8)
    pixels[..., 0] += 100 * label
    return pixels


@pytest.fixture(scope="module")
def insects(tmp_path_factory):
    root = tmp_path_factory.mktemp("insects")
    for part, n in (("train", 14), ("val", 6)):
        for label, name in enumerate(("ants", "bees")):
            (root / part / name).mkdir(parents=True)
            for k in range(n):
                Image.fromarray(picture(label)).save(root / part / name / f"{k}.png")
    return root


class Colours(nn.Module):
    """Two depths: the mean of every channel, and their product with three."""

    def forward(self, images):
        means = images.mean((2, 3))
        return torch.cat([means.roll(1, 0), means], 1)


@pytest.fixture
def small_trunk(monkeypatch):
    trunk = PhotographTrunk(Colours(), {"shuffled": 3, "true": 3})
    monkeypatch.setattr(image_pairs, "photograph_trunk", lambda *given, **options: trunk)


def run_small(folder, insects, resume=False):
    config = ImagePairConfig(study="ants-bees", data=str(insects), side=32, seeds=2)
    run = open_run(folder, config.model_dump(mode="json"), resume=resume)
    return run_image_pairs(run, [ants_and_bees(insects, side=32)], config)


def test_a_crop_is_the_centre_of_the_resized_picture():
    image = np.zeros((70, 140, 3), np.uint8)
    image[:, 70:] = 255
    crop = centre_crop(image, 56)  # the short side becomes 64
    assert crop.shape == (56, 56, 3)
    assert crop[:, :27].max() == 0
    assert crop[:, 29:].min() == 255


def test_views_keep_the_parts_of_the_folder(insects):
    loaded = load_views(insects, 32)
    assert loaded.split is not None
    assert loaded.images.images.shape == (40, 32, 64, 3)
    assert loaded.images.class_names == ("ants", "bees")
    assert sorted(loaded.split) == 28 * ["train"] + 12 * ["val"]


def test_a_folder_without_parts_is_refused(insects):
    with pytest.raises(DataError, match="must hold train/ and val/"):
        ants_and_bees(insects / "train")


def test_the_published_recipes(insects):
    recipe = ants_and_bees(insects, side=32).recipe
    assert [recipe.rate(epoch) for epoch in (0, 8, 9, 18, 19, 29)] == pytest.approx(
        [4e-4, 4e-4, 4e-5, 4e-5, 4e-6, 4e-7]
    )


def test_heads_have_the_published_sizes(insects):
    config = ImagePairConfig(study="ants-bees", data="here")
    heads = contestants_for(ants_and_bees(insects, side=32), 512, config)
    counts = {h.key: sum(p.numel() for p in h.build().parameters()) for h in heads}
    assert counts["dressed"] == 2086
    assert counts["linear"] == 1026
    assert counts["dense-4"] == 2052 + 10


def test_depths_are_chosen_without_looking_at_test_images():
    labels = torch.arange(60) % 2
    inputs = torch.randn(60, 6)
    inputs[:, 3:] += 4.0 * labels[:, None]
    trunk = PhotographTrunk(Colours(), {"shuffled": 3, "true": 3})
    scores = depth_scores(trunk, Samples(inputs, labels), np.arange(48), seed=0)
    assert max(scores, key=lambda depths: scores[depths]) in (("true",), ("shuffled", "true"))
    changed = Samples(inputs.clone(), labels.clone())
    changed.inputs[48:] = 1e6
    assert depth_scores(trunk, changed, np.arange(48), seed=0) == scores


def test_fewer_features_win_unless_they_are_clearly_worse():
    trunk = PhotographTrunk(Colours(), {"a": 10, "b": 40})
    scores = {("a",): 0.93, ("b",): 0.958, ("a", "b"): 0.96}
    assert simplest_good(scores, trunk, 240) == ("b",)  # one standard error is 0.0126
    assert simplest_good(scores, trunk, 20) == ("a",)
    assert simplest_good(scores, trunk, 10**6) == ("a", "b")


def test_features_are_standardised_by_training_images():
    samples = Samples(torch.rand(20, 4) * 7 + 3, torch.arange(20) % 2)
    ours = selected(samples, torch.tensor([1, 3]), np.arange(12), True).inputs
    assert ours.shape == (20, 2)
    torch.testing.assert_close(ours[:12].mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(ours[:12].std(0), torch.ones(2))
    plain = selected(samples, torch.tensor([1, 3]), np.arange(12), False).inputs
    assert torch.equal(plain, samples.inputs[:, [1, 3]])


@pytest.mark.usefixtures("small_trunk")
def test_a_run_and_its_resumption_agree(insects, tmp_path):
    result = run_small(tmp_path / "run", insects)
    assert len(result["rows"]) == 6
    assert result["rows"][0]["published"] == 0.9673
    assert all(row["best_epoch_mean"] > row["accuracy_mean"] - 1e-6 for row in result["rows"])
    before = (tmp_path / "run" / "result.json").read_bytes()
    (tmp_path / "run" / "heads" / "dense-4-ants-bees.safetensors").unlink()
    run_small(tmp_path / "run", insects, resume=True)
    assert (tmp_path / "run" / "result.json").read_bytes() == before


def test_a_smaller_task_has_both_classes(insects):
    task = smaller(ants_and_bees(insects, side=32), 8, 4)
    assert len(task.training) == 8
    assert set(task.training.labels) == {0, 1}


def test_columns_of_depths_and_means_over_views():
    trunk = PhotographTrunk(Colours(), {"a": 2, "b": 3, "c": 1})
    assert trunk.columns(("a", "c")).tolist() == [0, 1, 5]
    images = torch.rand(2, 3, 4, 4)
    pair = torch.cat([images, images + 1], -1)
    torch.testing.assert_close(ViewMean(nn.Flatten())(pair), images.flatten(1) + 0.5)
    mean = MirrorMean(nn.Flatten())
    torch.testing.assert_close(mean(images), mean(images.flip(-1)))


def test_missing_weights_are_named(monkeypatch):
    monkeypatch.delenv("QGRAFT_DATA", raising=False)
    with pytest.raises(WeightsError, match="--weights"):
        photograph_trunk("mobilenetv2", None, side=32, mirror=False)


@pytest.mark.parametrize(
    "words",
    [["spirals", "--quick", "--shapes", "moons"], ["photonic-qq", "--quick", "--seeds", "1"]],
)
def test_commands_write_a_report_and_json(words, tmp_path):
    out, rows = tmp_path / "run", tmp_path / "rows.json"
    done = CliRunner().invoke(
        app, ["reproduce", *words, "--out", str(out), "--json", str(rows)], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    assert "report:" in done.output
    assert (out / "report.html").exists()
    assert '"accuracy_mean"' in rows.read_text()


@pytest.mark.real_data
def test_the_public_pictures(real_data):
    task = ants_and_bees(real_data / "hymenoptera")
    assert (len(task.training), len(task.tests["validation"])) == (244, 153)
    pairs = cifar_tasks(real_data / "cifar10")
    assert [len(pair.training) for pair in pairs] == [7959, 7959, 7972, 7972]
