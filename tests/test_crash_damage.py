"""Damaged checkpoints: always seen, never used, and no reason to lose more than a part."""

import random
import warnings

import pytest
import torch

from crash_runs import (
    FEATURES,
    NIGHTLY,
    PICTURES,
    RECIPE,
    be_quick_and_eager,
    dressed_head,
    rest_easy,
    small_cnn,
)
from qgraft.errors import WeightsError
from qgraft.training import kept
from qgraft.training.checkpoint import (
    DamagedError,
    RecoveryWarning,
    atomic_write,
    parse_tensors,
    previous_of,
    save_tensors,
)
from qgraft.training.kept import finished_epochs, load_trained
from qgraft.training.loop import train


@pytest.fixture(autouse=True)
def quick_and_eager(monkeypatch):
    be_quick_and_eager(monkeypatch.setattr)


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory):
    """Return the folder of a training that was stopped in its third epoch."""
    folder = tmp_path_factory.mktemp("stopped")

    def stop(new, history):
        if len(history) == 2:
            raise KeyboardInterrupt

    file = folder / "one.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kept, "STORE_EVERY_S", 0.0)
        with pytest.raises(KeyboardInterrupt):
            train(small_cnn(), PICTURES, PICTURES, RECIPE, seed=4, checkpoint=file, on_epoch=stop)
    return folder


def damaged(data):
    """Yield the file cut off at every 1/64 and with one of 1,000 random bytes changed."""
    for part in range(64):
        yield data[: len(data) * part // 64]
    rng = random.Random(1)
    for _ in range(1000):
        place = rng.randrange(len(data))
        yield b"".join(
            (data[:place], bytes([data[place] ^ rng.randint(1, 255)]), data[place + 1 :])
        )


def test_damage_is_always_seen(two_checkpoints):
    data = (two_checkpoints / "one.safetensors").read_bytes()
    parse_tensors(data, "intact")
    for bad in damaged(data):
        with pytest.raises(
            DamagedError, match=r"^it (is damaged or was changed|is not a readable)"
        ):
            parse_tensors(bad, "it")


def test_the_checkpoint_before_a_damaged_one_is_used(two_checkpoints, tmp_path, monkeypatch):
    rest_easy(monkeypatch)
    whole = tmp_path / "whole.safetensors"
    history = train(small_cnn(), PICTURES, PICTURES, RECIPE, seed=4, checkpoint=whole)
    data = (two_checkpoints / "one.safetensors").read_bytes()
    before = previous_of(two_checkpoints / "one.safetensors").read_bytes()
    for number, bad in enumerate(list(damaged(data))[:: 5 if NIGHTLY else 60]):
        file = tmp_path / str(number) / "one.safetensors"
        atomic_write(file, bad)
        atomic_write(previous_of(file), before)
        with pytest.warns(RecoveryWarning, match="; going on from the one before it$"):
            again = train(small_cnn(), PICTURES, PICTURES, RECIPE, seed=4, checkpoint=file)
        assert again == history
        assert file.read_bytes() == whole.read_bytes()


def test_without_an_intact_checkpoint_a_part_starts_again(tmp_path, monkeypatch):
    rest_easy(monkeypatch)
    whole, file = tmp_path / "whole.safetensors", tmp_path / "one.safetensors"
    train(small_cnn(), PICTURES, PICTURES, RECIPE, seed=4, checkpoint=whole)
    for path in (file, previous_of(file)):
        path.write_bytes(whole.read_bytes()[:-9])
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        train(small_cnn(), PICTURES, PICTURES, RECIPE, seed=4, checkpoint=file)
    said = [str(warning.message).partition("; ")[2] for warning in seen]
    assert said == ["going on from the one before it", "starting this part again"]
    assert file.read_bytes() == whole.read_bytes()
    file.write_bytes(b"")
    with pytest.warns(RecoveryWarning, match="starting this part again"):
        assert finished_epochs(file) == 0
    assert {path.name for path in tmp_path.glob(".*")} == {".one.safetensors.damaged"}
    file.write_bytes(b"")
    with pytest.raises(WeightsError, match="is not a readable safetensors file"):
        load_trained(file, small_cnn())


def test_a_checkpoint_of_another_training_is_refused_not_replaced(tmp_path):
    file = tmp_path / "one.safetensors"
    head = dressed_head()
    train(head, FEATURES, None, RECIPE._replace(epochs=1), seed=0, checkpoint=file)
    with pytest.raises(WeightsError, match="does not fit this model"):
        train(small_cnn(), PICTURES, None, RECIPE, seed=4, checkpoint=file)
    tensors = {f"model.{name}": tensor for name, tensor in head.state_dict().items()}
    for wrong, message in (
        ({"optimiser.0.step": torch.tensor(1.0)}, "holds the optimiser of another network"),
        ({"optimiser.x": torch.tensor(1.0)}, "holds the optimiser of another network"),
        ({"model.extra": torch.tensor(1.0)}, "1 tensors missing, unexpected"),
    ):
        save_tensors(file, tensors | wrong, history="[]")
        with pytest.raises(WeightsError, match=message):
            train(head, FEATURES, None, RECIPE, seed=0, checkpoint=file)
    for history in ("", "{}", '"x"', "[1]", '[{"a": "b"}]', "[" * 100_000, "NaN"):
        save_tensors(file, tensors, history=history)
        with pytest.raises(WeightsError, match="it has no history"):
            train(head, FEATURES, None, RECIPE, seed=0, checkpoint=file)
