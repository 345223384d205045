"""The training loop: exact resume, pure shuffles, parity with a plain loop, and its files."""

import json
import random

import pytest
import torch
from torch import nn

from qgraft.errors import RunError, WeightsError
from qgraft.seeds import torch_stream
from qgraft.training import kept, loop
from qgraft.training.checkpoint import (
    atomic_write,
    load_tensors,
    load_tensors_with_metadata,
    read_json,
    save_tensors,
    write_json,
)
from qgraft.training.kept import load_weights
from qgraft.training.loop import Recipe, Samples, as_float, predict_logits, train


def samples(n=96, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(n, 6, generator=generator)
    return Samples(inputs, (inputs[:, 0] * inputs[:, 1] > 0).long())


def network(seed=0):
    with torch_stream(seed, "test network"):
        return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Dropout(0.3), nn.Linear(16, 2))


def weights_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


RECIPE = Recipe(epochs=6, learning_rate=0.01, batch_size=32)


def test_it_learns():
    history = train(network(), samples(), samples(seed=1), RECIPE._replace(epochs=80), seed=0)
    assert len(history) == 80
    assert history[-1]["train_loss"] < 0.5 < history[0]["train_loss"]
    assert history[-1]["val_accuracy"] > 0.75


def test_without_dropout_it_equals_a_plain_adam_loop():
    """An independent loop over the same order ends with the same weights."""
    model, plain = (nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 2)) for _ in range(2))
    plain.load_state_dict(model.state_dict())
    data = samples()
    train(model, data, samples(seed=1), RECIPE, seed=5)
    optimiser = torch.optim.Adam(plain.parameters(), RECIPE.learning_rate)
    for epoch in range(RECIPE.epochs):
        with torch_stream(5, "epoch", epoch) as generator:
            order = torch.randperm(96, generator=generator)
        for start in range(0, 96, 32):
            index = order[start : start + 32]
            optimiser.zero_grad()
            nn.functional.cross_entropy(plain(data.inputs[index]), data.labels[index]).backward()
            optimiser.step()
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stop_after", [1, 3, 5])
def test_a_stopped_training_ends_with_the_same_bits(tmp_path, monkeypatch, stop_after):
    monkeypatch.setattr(kept, "STORE_EVERY_S", 0.0)
    whole = network()
    expected = train(whole, samples(), samples(seed=1), RECIPE, seed=3)

    class StoppedError(Exception):
        pass

    def stop(new, history):
        if len(history) == stop_after:
            raise StoppedError

    file = tmp_path / "head.safetensors"
    with pytest.raises(StoppedError):
        train(network(), samples(), samples(seed=1), RECIPE, seed=3, checkpoint=file, on_epoch=stop)
    torch.manual_seed(99)  # whatever else happened to the global generator must not matter
    resumed = network(seed=7)
    seen = []
    history = train(
        resumed,
        samples(),
        samples(seed=1),
        RECIPE,
        seed=3,
        checkpoint=file,
        on_epoch=lambda new, history: seen.append(new),
    )
    assert history == expected
    assert seen == [stop_after] + [1] * (RECIPE.epochs - stop_after)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name])


def test_mixup_blends_inputs_and_labels_alike():
    """An independent loop with blended one-hot targets ends with the same weights."""
    recipe = RECIPE._replace(mixup=0.4)
    model, plain = (nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 2)) for _ in range(2))
    plain.load_state_dict(model.state_dict())
    data, shares = samples(), []
    train(model, data, None, recipe, seed=5)
    optimiser = torch.optim.Adam(plain.parameters(), recipe.learning_rate)
    for epoch in range(recipe.epochs):
        with torch_stream(5, "epoch", epoch):
            for index in torch.randperm(96).split(32):
                share = torch.distributions.Beta(torch.tensor(0.4), torch.tensor(0.4)).sample()
                other = index[torch.randperm(32)]
                one_hot = nn.functional.one_hot(data.labels, 2).float()
                inputs, targets = (
                    share * values[index] + (1 - share) * values[other]
                    for values in (data.inputs, one_hot)
                )
                optimiser.zero_grad()
                nn.functional.cross_entropy(plain(inputs), targets).backward()
                optimiser.step()
                shares.append(float(share))
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)
    assert 0 < min(shares) < 0.2 < 0.8 < max(shares) < 1


def test_a_stopped_mixup_ends_with_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "STORE_EVERY_S", 0.0)
    recipe = RECIPE._replace(mixup=0.4)
    whole, parted = network(), network()
    expected = train(whole, samples(), None, recipe, seed=5)
    steps = 0

    def stop_in_epoch_2(epoch, logits, labels, index):
        nonlocal steps
        steps += 1
        if steps == 16:  # a step asks twice: this is the eighth, the second of the third epoch
            raise KeyboardInterrupt
        return loop.label_loss(epoch, logits, labels, index)

    path = tmp_path / "w.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(parted, samples(), None, recipe, seed=5, checkpoint=path, loss=stop_in_epoch_2)
    again = network(seed=1)
    assert train(again, samples(), None, recipe, seed=5, checkpoint=path) == expected
    for name, tensor in weights_of(whole).items():
        assert torch.equal(weights_of(again)[name], tensor)


def test_the_rate_rises_over_the_first_epoch_and_then_fades():
    recipe = Recipe(epochs=4, learning_rate=0.1, fades=True, warms=True)
    assert [recipe.rate(0, share) for share in (0.25, 0.5, 1.0)] == [0.025, 0.05, 0.1]
    cold = recipe._replace(warms=False)
    assert [recipe.rate(k, 0.5) for k in (1, 2, 3)] == [cold.rate(k) for k in (1, 2, 3)]
    first, data = weights_of(network()), samples()
    one = Recipe(epochs=1, learning_rate=0.01, batch_size=24)
    moved = []
    for warms in (False, True):
        model = network()
        train(model, data, None, one._replace(warms=warms), seed=0)
        moved.append(float((weights_of(model)["0.weight"] - first["0.weight"]).abs().mean()))
    assert moved[1] < 0.8 * moved[0]  # of four steps, a sum of 2.5 instead of 4


def test_a_channels_last_network_resumes_to_the_same_bits(tmp_path):
    """Fused Adam walks raw memory, so restored moments must lie like their parameters."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 255, (24, 1, 20, 20), generator=generator, dtype=torch.uint8)
    data = Samples(images, torch.arange(24) % 2)

    def cnn():
        with torch_stream(0, "cnn"):
            layers = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.Flatten()
            model = nn.Sequential(*layers, nn.Linear(8 * 16 * 16, 2))
        return model.to(memory_format=torch.channels_last)

    whole, parted = cnn(), cnn()
    recipe = Recipe(epochs=4, learning_rate=0.01, batch_size=8)
    train(whole, data, data, recipe, seed=1)
    file = tmp_path / "cnn.safetensors"
    train(parted, data, data, recipe._replace(epochs=2), seed=1, checkpoint=file)
    resumed = cnn()
    train(resumed, data, data, recipe, seed=1, checkpoint=file)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name])


def test_a_changed_checkpoint_is_never_loaded(tmp_path):
    file = tmp_path / "w.safetensors"
    save_tensors(file, {"a": torch.arange(64.0)}, note="x")
    content = file.read_bytes()
    rng = random.Random(0)
    for _ in range(300):
        changed = bytearray(content)
        changed[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        file.write_bytes(bytes(changed))
        try:
            tensors, _ = load_tensors_with_metadata(file)
        except WeightsError:
            continue
        assert torch.equal(tensors["a"], torch.arange(64.0))  # only unused header bytes differ


def test_a_finished_checkpoint_is_read_not_repeated(tmp_path):
    file = tmp_path / "head.safetensors"
    model = network()
    history = train(model, samples(), samples(seed=1), RECIPE, seed=3, checkpoint=file)
    before = file.stat().st_mtime_ns
    again = network(seed=1)
    assert train(again, samples(), samples(seed=1), RECIPE, seed=3, checkpoint=file) == history
    assert file.stat().st_mtime_ns == before
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True)
    )


def test_the_global_generator_is_left_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    train(network(), samples(), samples(seed=1), RECIPE, seed=0)
    assert torch.equal(torch.rand(3), expected)


def test_validation_never_moves_the_weights():
    one, other = network(), network()
    train(one, samples(), samples(seed=1), RECIPE, seed=0)
    train(other, samples(), samples(n=7, seed=2), RECIPE, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_shuffled_labels_stay_at_chance():
    data = samples(n=400)
    shuffled = data.labels[torch.randperm(400, generator=torch.Generator().manual_seed(1))]
    held_out = samples(n=400, seed=1)
    history = train(network(), Samples(data.inputs, shuffled), held_out, RECIPE, seed=0)
    assert 0.38 < history[-1]["val_accuracy"] < 0.62


def test_a_loss_that_explodes_is_one_clear_error():
    data = samples()
    inputs = data.inputs.clone()
    inputs[0, 0] = float("nan")
    with pytest.raises(RunError, match=r"training loss became nan; lower the learning rate"):
        train(network(), Samples(inputs, data.labels), data, RECIPE, seed=0)


def test_images_become_floats_between_0_and_1():
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    floats = as_float(images)
    torch.testing.assert_close(floats.ravel(), torch.arange(256) / 255)
    assert as_float(floats) is floats


def test_predictions_do_not_depend_on_the_batch():
    inputs = samples(n=10).inputs
    model = network()
    torch.testing.assert_close(
        predict_logits(model, inputs, batch_size=3), predict_logits(model, inputs)
    )


def test_weights_must_fit(tmp_path):
    model = network()
    good = weights_of(model)
    file = tmp_path / "w.safetensors"
    with pytest.raises(WeightsError, match=r"1 tensors missing, unexpected .* first '0.bias'"):
        load_weights(model, {k: v for k, v in good.items() if k != "0.bias"}, file)
    with pytest.raises(WeightsError, match=r"of another shape, first '0.bias'"):
        load_weights(model, {**good, "0.bias": torch.zeros(3)}, file)
    with pytest.raises(WeightsError, match=r"not finite in '0.bias'"):
        load_weights(model, {**good, "0.bias": torch.full((16,), float("inf"))}, file)


def test_damaged_weight_files_are_refused(tmp_path):
    file = tmp_path / "w.safetensors"
    save_tensors(file, {"a": torch.ones(3)}, note="x")
    assert load_tensors(file)["a"].tolist() == [1, 1, 1]
    content = file.read_bytes()
    for damaged in (b"", content[:5], content[:-1], b"\xff" * 20, b"\x80\x04pickle"):
        file.write_bytes(damaged)
        with pytest.raises(WeightsError, match=r"not a readable safetensors file|checksum differs"):
            load_tensors(file)
    with pytest.raises(WeightsError, match="does not exist"):
        load_tensors(tmp_path / "none.safetensors")


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "result.json"
    write_json(file, {"a": 1})
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        atomic_write(file, "half")
    assert json.loads(file.read_text()) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_json_refuses_nan_and_names_a_missing_file(tmp_path):
    with pytest.raises(ValueError, match="Out of range"):
        write_json(tmp_path / "x.json", float("nan"))
    with pytest.raises(RunError, match=r"x\.json is missing"):
        read_json(tmp_path / "x.json")
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(RunError, match="not valid JSON"):
        read_json(tmp_path / "x.json")
