"""One cell of a transfer study: a head on a task, trained from several seeds, kept in one file.

Heads are trained by whichever trainer of the package is fastest for them; all take the same steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from qgraft.errors import RunError
from qgraft.seeds import derive, torch_stream
from qgraft.studies.run import Run, Unit
from qgraft.training.checkpoint import load_tensors, save_tensors
from qgraft.training.head_trainer import HeadTask, can_train, train_heads
from qgraft.training.kept import EpochRecord
from qgraft.training.loop import Recipe, Samples, predict_logits, train
from qgraft.training.stacked_trainer import can_stack, train_stacked

LEVEL = 0.95


class Contestant(NamedTuple):
    """A head with its recipe.

    Attributes:
        key: names its file.
        title: names it in tables.
        build: returns a new head; its initial weights come from torch's generator.
        recipe: how it is trained.
    """

    key: str
    title: str
    build: Callable[[], nn.Module]
    recipe: Recipe


class Outcome(NamedTuple):
    """What the heads of a cell reached.

    Attributes:
        right: for every test set `(n_seeds, n_test)`: which samples each head called right.
        best: `(n_seeds,)` the best accuracy on the watched test set after any epoch, or None.
        n_params: parameters of one head.
        states: weights of all heads, stacked by seed.
    """

    right: dict[str, np.ndarray]
    best: np.ndarray | None
    n_params: int
    states: dict[str, torch.Tensor]

    def accuracies(self, test: str) -> np.ndarray:
        """Return the accuracies on a test set `(n_seeds,)`."""
        return self.right[test].mean(axis=1)


def train_seeds(
    run: Run,
    task: str,
    contestant: Contestant,
    samples: Samples,
    training: np.ndarray,
    tests: Mapping[str, np.ndarray],
    *,
    seed: int,
    n_seeds: int,
    watch: str | None = None,
) -> Outcome:
    """Train the heads of one cell, or read what an earlier run left.

    Args:
        run: the run; the cell is kept in `heads/`.
        task: names the file together with the contestant.
        contestant: what to train.
        samples: float features and labels that the indices point into.
        training: indices of the samples to learn from.
        tests: indices of the samples of every test set.
        seed: with the number of a head decides its initial weights and the order of samples, for
            all contestants alike.
        n_seeds: how many heads.
        watch: a test set to score after every epoch; it never influences the weights.
    """
    path = run.folder / _file(task, contestant)
    if not path.exists():
        heads = [_new_head(contestant, seed, number) for number in range(n_seeds)]
        rows = torch.from_numpy(training)
        watched = torch.from_numpy(tests[watch]) if watch else None
        tasks = [
            HeadTask(head, rows, watched, derive(seed, "order", number))
            for number, head in enumerate(heads)
        ]
        histories = _train(tasks, samples, contestant.recipe)
        save_tensors(path, _scored(heads, histories, samples, tests))
    return _outcome(path, tests, n_seeds)


def seeds_unit(
    task: str,
    contestant: Contestant,
    samples: Samples,
    training: np.ndarray,
    tests: Mapping[str, np.ndarray],
    *,
    seed: int,
    n_seeds: int,
    watch: str | None = None,
) -> Unit:
    """Return the training of one cell as a unit of work; arguments as of `train_seeds`."""
    own = task, contestant, seed, n_seeds, watch
    return Unit(_train_unit, (samples, training, tests), own, (str(_file(task, contestant)),))


def _train_unit(
    run: Run,
    samples: Samples,
    training: np.ndarray,
    tests: Mapping[str, np.ndarray],
    task: str,
    contestant: Contestant,
    seed: int,
    n_seeds: int,
    watch: str | None,
) -> None:
    options: dict[str, Any] = {"seed": seed, "n_seeds": n_seeds, "watch": watch}
    with run.timed("heads"):
        train_seeds(run, task, contestant, samples, training, tests, **options)
    run.advance(1, f"{contestant.title} on {task}")


def _file(task: str, contestant: Contestant) -> Path:
    """Return where a cell is kept below the folder of the run."""
    return Path("heads") / f"{contestant.key}-{task}.safetensors"


def _new_head(contestant: Contestant, seed: int, number: int) -> nn.Module:
    with torch_stream(seed, "initial weights", number):
        return contestant.build()


def _train(tasks: list[HeadTask], samples: Samples, recipe: Recipe) -> list[list[EpochRecord]]:
    """Train all heads in place; return their records where they were watched."""
    head = tasks[0].head
    if can_train(head, samples, recipe):
        return train_heads(tasks, samples, recipe)
    if tasks[0].validation is None and can_stack(head, samples, recipe):
        train_stacked(tasks, samples, recipe)
        return []
    return [
        train(
            task.head,
            _rows(samples, task.training),
            None if task.validation is None else _rows(samples, task.validation),
            recipe,
            seed=task.seed,
        )
        for task in tasks
    ]


def _rows(samples: Samples, index: torch.Tensor) -> Samples:
    return Samples(samples.inputs[index], samples.labels[index])


def _scored(
    heads: list[nn.Module],
    histories: list[list[EpochRecord]],
    samples: Samples,
    tests: Mapping[str, np.ndarray],
) -> dict[str, torch.Tensor]:
    states = [head.state_dict() for head in heads]
    tensors = {f"state.{name}": torch.stack([s[name] for s in states]) for name in states[0]}
    for name, index in tests.items():
        part = samples.subset(index)
        rights = [predict_logits(h, part.inputs).argmax(-1) == part.labels for h in heads]
        tensors[f"right.{name}"] = torch.stack(rights)
    curves = [[r["val_accuracy"] for r in history if "val_accuracy" in r] for history in histories]
    if curves and curves[0]:
        tensors["watched"] = torch.tensor(curves, dtype=torch.float64)
    return tensors


def _outcome(path: Path, tests: Mapping[str, np.ndarray], n_seeds: int) -> Outcome:
    tensors = load_tensors(path)
    right = {name: tensors.get(f"right.{name}", torch.zeros(0)).numpy() for name in tests}
    for name, index in tests.items():
        if right[name].shape != (n_seeds, len(index)):
            raise RunError(f"{path} was written with other settings; choose another --out")
    states = {k.removeprefix("state."): v for k, v in tensors.items() if k.startswith("state.")}
    best = tensors["watched"].numpy().max(axis=1) if "watched" in tensors else None
    n_params = sum(state[0].numel() for state in states.values())
    return Outcome(right, best, n_params, states)


def result_row(
    task: str, model: str, params: int, accuracies: np.ndarray, published: float | None = None
) -> dict[str, Any]:
    """Return a row of the result: mean, spread and the interval of the mean within 0 to 1."""
    from scipy import stats

    n, mean = len(accuracies), float(accuracies.mean())
    spread = float(accuracies.std(ddof=1)) if n > 1 else 0.0
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * spread / n**0.5 if n > 1 else None
    return {
        "task": task,
        "model": model,
        "params": params,
        "accuracy_mean": mean,
        "accuracy_std": spread,
        "accuracy_low": None if half is None else max(mean - half, 0.0),
        "accuracy_high": None if half is None else min(mean + half, 1.0),
        "accuracy_min": float(accuracies.min()),
        "accuracy_max": float(accuracies.max()),
        "accuracies": accuracies.tolist(),
        "n_seeds": n,
        "published": published,
    }
