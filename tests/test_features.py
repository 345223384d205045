"""Features in shards: the same bytes by any number of workers, resumable, streamed to a head."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from qgraft.cli import app
from qgraft.data.folders import load_images
from qgraft.errors import ConfigError, DataError, RunError, WeightsError
from qgraft.seeds import torch_stream
from qgraft.studies import feature_shards
from qgraft.studies.feature_shards import FeatureShards, Source, extract_shards, frozen_trunk
from qgraft.studies.parallel import spreading
from qgraft.studies.run import SUMS_FILE, open_run
from qgraft.training.kept import store_trained
from qgraft.training.loop import predict_logits
from qgraft.trunks.registry import build_trunk

N = 23


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for k in range(N):
        kind = ("normal", "anomalous")[k % 2]
        (root / kind).mkdir(exist_ok=True)
        pixels = rng.normal(100 + 60 * (k % 2), 20, (40, 40)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(root / kind / f"{k:02d}.png")
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "init-0.safetensors"
    with torch_stream(0, "features"):
        store_trained(path, build_trunk("cm3"), [])
    return path


@pytest.fixture
def source(pictures, weights):
    return Source(str(pictures), "cm3", str(weights), shard_size=5)


def extract(folder, source, jobs=None, address=None):
    resume = (folder / "config.json").exists()
    with spreading(jobs, address) as spread:
        run = open_run(folder, source._asdict(), resume=resume, spread=spread)
        return extract_shards(run, source)


def test_shards_hold_what_the_trunk_says_of_every_image(source, tmp_path):
    manifest = extract(tmp_path / "shards", source, 1)
    shards = FeatureShards(tmp_path / "shards")
    assert len(shards) == N == manifest["n_images"]
    assert [len(shard.names) for shard in shards] == [5, 5, 5, 5, 3]
    images = load_images(tmp_path.joinpath(source.data), size=200).images
    expected = predict_logits(
        frozen_trunk(source), torch.from_numpy(images.images)[:, None], batch_size=5
    )
    together = torch.cat([shard.samples.inputs for shard in shards])
    assert torch.allclose(together, expected.flatten(1), atol=1e-5)
    labels = torch.cat([shard.samples.labels for shard in shards])
    assert torch.equal(labels, torch.from_numpy(images.labels))
    names = [name for shard in shards for name in shard.names]
    assert tuple(names) == images.names
    assert shards.class_names == images.class_names


def test_any_number_of_jobs_and_any_stop_give_the_same_bytes(source, tmp_path, monkeypatch):
    extract(tmp_path / "alone", source, 1)
    sums = (tmp_path / "alone" / SUMS_FILE).read_text()
    extract(tmp_path / "together", source, 2)
    assert (tmp_path / "together" / SUMS_FILE).read_text() == sums
    assert sums.count("features/shard-") == 5
    (tmp_path / "together" / "features" / "shard-000003.safetensors").unlink()
    damaged = tmp_path / "together" / "features" / "shard-000001.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    made = []
    extracted = feature_shards._extract
    monkeypatch.setattr(
        feature_shards, "_extract", lambda *a: made.append(a[3]) or extracted(*a)
    )  # fmt: skip
    with pytest.warns(UserWarning, match="starting this part again"):
        extract(tmp_path / "together", source, 1)
    assert made == [1, 3]
    assert (tmp_path / "together" / SUMS_FILE).read_text() == sums


def test_other_images_are_not_mixed_in(source, pictures, tmp_path):
    extract(tmp_path, source, 1)
    with pytest.raises(RunError, match="other settings: shard_size was 5, now 6"):
        extract(tmp_path, source._replace(shard_size=6))
    Image.new("L", (40, 40)).save(pictures / "normal" / "99.png")
    try:
        with pytest.raises(RunError, match="images or their splits changed"):
            extract(tmp_path, source)
    finally:
        (pictures / "normal" / "99.png").unlink()


def test_unreadable_images_end_it_or_are_left_out(source, pictures, tmp_path):
    (pictures / "normal" / "00a.png").write_bytes(b"no image")
    (pictures / "anomalous" / "empty.png").write_bytes(b"")
    try:
        with pytest.raises(DataError, match="--on-error skip"):
            extract(tmp_path / "fails", source)
        manifest = extract(tmp_path / "skips", source._replace(on_error="skip"))
    finally:
        (pictures / "normal" / "00a.png").unlink()
        (pictures / "anomalous" / "empty.png").unlink()
    assert manifest["n_images"] == N
    assert len(manifest["skipped"]) == 2
    assert any("00a.png" in fault for fault in manifest["skipped"])
    assert sum(len(shard.names) for shard in FeatureShards(tmp_path / "skips")) == N


def test_a_head_learns_from_streamed_batches(source, tmp_path):
    extract(tmp_path, source, 1)
    shards = FeatureShards(tmp_path)
    with torch_stream(0, "streamed head"):
        head = nn.Linear(shards.n_features, 2)
    optimiser = torch.optim.Adam(head.parameters(), 1e-3)
    for epoch in range(30):
        sizes = []
        for inputs, labels in shards.batches(8, seed=1, epoch=epoch):
            optimiser.zero_grad()
            nn.functional.cross_entropy(head(inputs), labels).backward()
            optimiser.step()
            sizes.append(len(labels))
        assert sizes == [8, 8, 7]
    right = [head(s.samples.inputs).argmax(-1) == s.samples.labels for s in shards]
    assert torch.cat(right).float().mean() > 0.9


def test_batches_are_a_function_of_seed_and_epoch(source, tmp_path):
    extract(tmp_path, source, 1)
    shards = FeatureShards(tmp_path)

    def seen(seed, epoch, size=4):
        return torch.cat([inputs for inputs, _ in shards.batches(size, seed=seed, epoch=epoch)])

    assert torch.equal(seen(0, 0), seen(0, 0))
    assert torch.equal(seen(0, 0), seen(0, 0, size=7))
    assert not torch.equal(seen(0, 0), seen(0, 1))
    assert not torch.equal(seen(0, 0), seen(1, 0))
    assert torch.allclose(seen(0, 0).sum(0), seen(0, 1).sum(0), rtol=1e-4)


def test_a_changed_shard_is_not_read(source, tmp_path):
    extract(tmp_path, source, 1)
    first, second = sorted((tmp_path / "features").iterdir())[:2]
    first.write_bytes(second.read_bytes())  # intact, but another one
    with pytest.raises(WeightsError, match=r"is not the one of manifest\.json"):
        list(FeatureShards(tmp_path))
    first.unlink()
    with pytest.raises(WeightsError, match="cannot be read"):
        list(FeatureShards(tmp_path))
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(RunError, match="is damaged"):
        FeatureShards(tmp_path)


def test_what_cannot_be_is_said_before_any_image_is_read(source, tmp_path):
    with pytest.raises(WeightsError, match="--trunk-weights"):
        extract(tmp_path / "a", source._replace(trunk_weights=None))
    with pytest.raises(ConfigError, match="unknown network 'cm9'"):
        extract(tmp_path / "b", source._replace(trunk="cm9"))
    with pytest.raises(ConfigError, match="shards of 0 images"):
        extract(tmp_path / "c", source._replace(shard_size=0))


def test_the_command(source, tmp_path):
    from typer.testing import CliRunner

    out = tmp_path / "out"
    words = ["features", source.data, "--trunk", "cm3", "--trunk-weights", source.trunk_weights,
             "--shard-size", "5", "--out", str(out)]  # fmt: skip
    result = CliRunner().invoke(app, [*words, "--json", str(tmp_path / "m.json")])
    assert result.exit_code == 0, result.exception
    assert "23 images" in result.stderr
    assert json.loads((tmp_path / "m.json").read_text())["n_images"] == N
    again = CliRunner().invoke(app, words)
    assert isinstance(again.exception, RunError)
    assert "--resume" in str(again.exception)
    assert CliRunner().invoke(app, [*words, "--resume"]).exit_code == 0
