"""Heads trained together against `loop.train` one by one, and what cannot be stacked."""

import copy

import pytest
import torch
from torch import nn

from qgraft.errors import RunError
from qgraft.heads.dense import DenseHead
from qgraft.heads.dressed import DressedHead
from qgraft.heads.registry import build_head
from qgraft.seeds import torch_stream
from qgraft.training import loop, stacked_trainer
from qgraft.training.head_trainer import HeadTask
from qgraft.training.loop import Recipe, Samples
from qgraft.training.stacked_trainer import can_stack, train_stacked

RECIPE = Recipe(epochs=20, learning_rate=1e-3, batch_size=24)  # 10 steps each


def samples(n_features, dtype, n_classes=3, n=290):
    generator = torch.Generator().manual_seed(4)
    inputs = torch.randn(n, n_features, generator=generator, dtype=torch.float64)
    return Samples(inputs.to(dtype), (inputs[:, :n_classes] ** 2).argmax(1))


def head(kind, n_features, dtype, seed, **options):
    with torch_stream(seed, "head"):
        return build_head(kind, n_features, 3, **options).to(dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("matched", {}),
        ("matched-sine", {"n_qubits": 3}),
        ("no-circuit", {"scale": 1.5, "relu": True}),
        ("dense", {}),
        ("dense", {"widths": (16, 8), "dropout": (0.5, 0.25)}),
    ],
)
def test_two_hundred_steps_follow_the_loop(kind, options, dtype, tolerance):
    """Folds of several lengths, some with a shorter last batch, one with a step less."""
    data = samples(12, dtype)
    order = torch.randperm(290, generator=torch.Generator().manual_seed(1))
    tasks = [
        HeadTask(head(kind, 12, dtype, seed, **options), order[seed:end], None, 7 + seed)
        for seed, end in enumerate((240, 236, 200))
    ]
    plain = [copy.deepcopy(task.head) for task in tasks]
    train_stacked(tasks, data, RECIPE)
    for task, expected in zip(tasks, plain, strict=True):
        part = data.subset(task.training.numpy())
        loop.train(expected, part, None, RECIPE, seed=task.seed)
        for found, reference in zip(task.head.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(found, reference, rtol=0, atol=tolerance)


def test_how_heads_are_stacked_changes_next_to_nothing(monkeypatch):
    data = samples(12, torch.float64)
    together, alone = (
        [HeadTask(head("matched", 12, torch.float64, s), torch.arange(200), None, s)
         for s in range(3)]
        for _ in range(2)
    )  # fmt: skip
    seen = []
    train_stacked(together, data, RECIPE, on_epoch=lambda n, loss: seen.append((n, loss)))
    monkeypatch.setattr(stacked_trainer, "STACK_BYTES", 1)
    train_stacked(alone, data, RECIPE)
    for one, other in zip(together, alone, strict=True):
        for found, expected in zip(one.head.parameters(), other.head.parameters(), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert [n for n, _ in seen] == [3] * RECIPE.epochs
    assert seen[-1][1] < seen[0][1]


def test_what_cannot_be_stacked_is_told_apart():
    data = samples(6, torch.float32)
    good = DenseHead(6, 3)
    assert can_stack(good, data, RECIPE)
    for other in ({"mixed_precision": True}, {"mixup": 0.4}, {"warms": True}):
        assert not can_stack(good, data, RECIPE._replace(**other))
    unfit = (
        DressedHead(6, 3),
        nn.Linear(6, 3),
        nn.Sequential(nn.Linear(6, 3, bias=False)),
        nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3)),
        DenseHead(6, 3).double(),
        DenseHead(6, 3).requires_grad_(False),
        DenseHead(6, 3, widths=(4,)),
    )
    for model in unfit:
        tasks = [HeadTask(m, torch.arange(9), None, 0) for m in (good, model)]
        with pytest.raises(RunError, match=r"task 1 is not a plain chain .*loop\.train"):
            train_stacked(tasks, data, RECIPE)


def test_a_loss_that_is_not_finite_ends_the_training():
    data = samples(6, torch.float32)
    data.inputs[5, 2] = float("nan")
    task = HeadTask(DenseHead(6, 3), torch.arange(290), None, 0)
    with pytest.raises(RunError, match=r"the training loss became nan; lower the learning rate"):
        train_stacked([task], data, RECIPE)


def test_nothing_to_train_is_no_mistake():
    train_stacked([], samples(6, torch.float32), RECIPE)
