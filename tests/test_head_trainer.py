"""The head trainer against the plain torch loop, and its files, records and refusals."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from qgraft.circuits.ansatz import dressed_circuit
from qgraft.circuits.circuit import Circuit, Op, Param, each_z
from qgraft.errors import RunError
from qgraft.heads.dense import DenseHead
from qgraft.heads.dressed import DressedHead
from qgraft.heads.registry import build_head
from qgraft.seeds import torch_stream
from qgraft.training import loop
from qgraft.training.head_trainer import HeadTask, can_train, train_heads
from qgraft.training.loop import Recipe, Samples

RECIPE = Recipe(epochs=20, learning_rate=1e-3, batch_size=24)


def samples(n_features, n_classes=3, dtype=torch.float64, n=290):
    generator = torch.Generator().manual_seed(4)
    inputs = torch.randn(n, n_features, generator=generator, dtype=torch.float64)
    labels = (inputs[:, :n_classes] ** 2).argmax(1)
    return Samples(inputs.to(dtype), labels)


def head(n_features, dtype, seed=0, **options):
    with torch_stream(seed, "head"):
        return DressedHead(n_features, 3, **options).to(dtype)


def train_plainly(head, samples, rows, recipe, seed):
    """Ten steps per epoch of ordinary torch, in the numbers' own precision."""
    optimiser = torch.optim.Adam(head.parameters(), recipe.learning_rate)
    for epoch in range(recipe.epochs):
        with torch_stream(seed, "epoch", epoch) as generator:
            order = rows[torch.randperm(len(rows), generator=generator)]
        for index in order.split(recipe.batch_size):
            optimiser.zero_grad()
            F.cross_entropy(head(samples.inputs[index]), samples.labels[index]).backward()
            optimiser.step()


def reuploading():
    ops = []
    for layer in range(2):
        ops += [Op("RX", (q,), (Param("angle", q),)) for q in range(3)]
        ops += [Op("Rot", (q,), tuple(Param("weight", 9 * layer + 3 * q + k) for k in range(3)))
                for q in range(3)]  # fmt: skip
        ops += [Op("CRZ", (q, (q + 1) % 3), (Param("angle", q, 0.5),)) for q in range(3)]
    return Circuit(3, tuple(ops), each_z(3))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize(
    ("n_features", "options"),
    [
        (40, {"relu": True, "scale": torch.pi / 2}),
        (16, {"circuit": dressed_circuit(4, 2)}),
        (5, {"circuit": reuploading(), "init_spread": 0.1}),
    ],
)
def test_two_hundred_steps_follow_plain_torch(n_features, options, dtype, tolerance):
    data = samples(n_features, dtype=dtype)
    rows = torch.randperm(290, generator=torch.Generator().manual_seed(1))[:230]
    trained = head(n_features, dtype, **options)
    plain = copy.deepcopy(trained)
    plain.backend = "torch"
    train_heads([HeadTask(trained, rows, None, 7)], data, RECIPE)
    train_plainly(plain, data, rows, RECIPE, 7)
    for found, expected in zip(trained.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("kind", ["frozen-circuit", "no-entanglers"])
def test_controls_follow_plain_torch_too(kind):
    data = samples(16)
    with torch_stream(0, "head"):
        trained = build_head(kind, 16, 3).double()
    before = trained.weights.detach().clone()
    plain = copy.deepcopy(trained)
    plain.backend = "torch"
    train_heads([HeadTask(trained, torch.arange(230), None, 7)], data, RECIPE)
    train_plainly(plain, data, torch.arange(230), RECIPE, 7)
    for found, expected in zip(trained.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    assert torch.equal(trained.weights, before) == (kind == "frozen-circuit")


def test_records_are_those_of_the_loop():
    data = samples(12, dtype=torch.float32)
    training, validation = torch.arange(200), torch.arange(200, 290)
    ours = head(12, torch.float32)
    theirs = copy.deepcopy(ours)
    seen = []
    (history,) = train_heads(
        [HeadTask(ours, training, validation, 3)],
        data,
        RECIPE,
        on_epoch=lambda task, records: seen.append((task, len(records))),
    )
    expected = loop.train(
        theirs, Samples(*data.at(training)), Samples(*data.at(validation)), RECIPE, seed=3
    )
    assert seen == [(0, epoch + 1) for epoch in range(RECIPE.epochs)]
    for found, reference in zip(history, expected, strict=True):
        assert found == pytest.approx(reference, abs=2e-5)
        assert list(found) == list(reference)


def test_heads_together_end_with_the_bits_of_heads_alone():
    data = samples(12, dtype=torch.float32)
    recipe = RECIPE._replace(epochs=3)

    def tasks():
        return [
            HeadTask(
                head(12, torch.float32, seed, depth=1 + seed % 2), torch.arange(200), None, seed
            )
            for seed in range(5)
        ]

    together, alone = tasks(), tasks()
    histories = train_heads(together, data, recipe, threads=2)
    assert histories == [train_heads([task], data, recipe, threads=1)[0] for task in alone]
    for one, other in zip(together, alone, strict=True):
        assert all(map(torch.equal, one.head.parameters(), other.head.parameters()))


def test_it_learns():
    data = samples(4, 2, torch.float32)
    trained = head(4, torch.float32, scale=torch.pi / 2)
    recipe = Recipe(epochs=30, learning_rate=0.02, batch_size=32)
    (history,) = train_heads([HeadTask(trained, torch.arange(290), None, 0)], data, recipe)
    assert history[-1]["train_accuracy"] > 0.85 > history[0]["train_accuracy"]


def test_heads_that_the_kernels_cannot_train_are_told_apart():
    data = samples(6, dtype=torch.float32)
    frozen = head(6, torch.float32)
    frozen.pre.bias.requires_grad_(False)
    unfit = (
        DenseHead(6, 3),
        nn.Linear(6, 3),
        head(6, torch.float64),
        head(7, torch.float32),
        head(6, torch.float32, backend="torch"),
        frozen,
    )
    assert can_train(head(6, torch.float32), data, RECIPE)
    for other in ({"mixed_precision": True}, {"mixup": 0.4}, {"warms": True}):
        assert not can_train(head(6, torch.float32), data, RECIPE._replace(**other))
    for model in unfit:
        assert not can_train(model, data, RECIPE)
        with pytest.raises(RunError, match=r"task 0 is not a dressed head .*loop\.train"):
            train_heads([HeadTask(model, torch.arange(9), None, 0)], data, RECIPE)


def test_a_loss_that_is_not_finite_ends_the_training():
    data = samples(6, dtype=torch.float32)
    data.inputs[5, 2] = float("nan")
    with pytest.raises(RunError, match=r"the training loss became nan; lower the learning rate"):
        train_heads([HeadTask(head(6, torch.float32), torch.arange(290), None, 0)], data, RECIPE)
