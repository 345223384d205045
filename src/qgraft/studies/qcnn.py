"""Classical-to-quantum transfer to quantum convolutional networks (arXiv 2208.14708).

A network is trained on Fashion-MNIST and cut after its batch norm; its features of two MNIST
digits go straight into a quantum convolutional network, 200 small steps are taken, and the whole
test set is scored. 22 networks, three pairs, ten seeds; classical heads of equal size beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qgraft.circuits.blocks import CONVOLUTIONS, POOLINGS, find_block
from qgraft.circuits.embeddings import embed
from qgraft.circuits.qcnn import PUBLISHED_MODELS
from qgraft.config import QcnnConfig
from qgraft.data.digits import TransferData
from qgraft.errors import ConfigError
from qgraft.heads.qcnn import QcnnHead
from qgraft.studies.qcnn_cells import (
    RATES,
    TUNING_SEEDS,
    Contestant,
    PairTask,
    Scores,
    train_cell,
    tuned_rate,
)
from qgraft.studies.qcnn_controls import (
    CONTROLS,
    PUBLISHED_FIRST,
    PUBLISHED_RATE,
    Control,
    controls_for,
    logistic_regression,
)
from qgraft.studies.qcnn_rows import Cell, comparisons, control_row, cost_curves, model_row, notes
from qgraft.studies.qcnn_tasks import audit_pairs, pair_tasks, reduced_tasks, trained_trunk
from qgraft.studies.run import Run, Unit, keep_data
from qgraft.training.checkpoint import read_json, write_json
from qgraft.training.minibatch import StepRecipe

N_QUBITS = 8
HEAD_WORK = 0.02  # of a sample in a training step, in images of the source task
REFERENCE = ("su4", "generalised")  # the network that is tuned as the controls are


def run_qcnn(run: Run, data: TransferData, config: QcnnConfig) -> dict[str, Any]:
    """Run the study in its directory and return what `result.json` holds.

    Args:
        run: an opened run directory.
        data: source and target images.
        config: what to do.

    Raises:
        ConfigError: the settings do not go together.
    """
    models = models_of(config)
    run.work = _work(config, data, len(models))
    tasks = _tasks(run, data, config)
    keep_data(run.folder, _described(data, config, tasks))
    with run.timed("heads"):
        cells = _train(run, tasks, models, config)
    rows = [model_row(cell, config) for cell in cells if cell.pooling]
    controls = [control_row(cell, config) for cell in cells if not cell.pooling]
    result = {
        "study": "qcnn",
        "rows": rows,
        "controls": controls,
        "comparisons": comparisons(cells),
        "notes": notes(config),
        "data": _summary(data, tasks),
        "audit": audit_pairs(data, config.pairs),
        "config": config.model_dump(mode="json"),
    }
    write_json(run.folder / "curves.json", cost_curves(cells))
    write_json(run.folder / "result.json", result)
    run.advance(run.work, "done")
    run.finish()
    return result


def models_of(config: QcnnConfig) -> list[tuple[str, str]]:
    """Return the networks as (convolution, pooling): of the product the published ones, or all.

    Raises:
        ConfigError: none is left.
    """
    for name in config.ansatz:
        find_block("convolution block", name, CONVOLUTIONS)
    for name in config.pooling:
        find_block("pooling block", name, POOLINGS)
    product = [(ansatz, pooling) for ansatz in config.ansatz for pooling in config.pooling]
    if config.published_only:
        product = [model for model in product if model in PUBLISHED_MODELS]
    if not product:
        raise ConfigError(
            "none of these networks was published; add --all-combinations to run them all the same"
        )
    return product


def _tasks(run: Run, data: TransferData, config: QcnnConfig) -> list[PairTask]:
    width = embed(config.embedding, N_QUBITS).width
    if config.inputs != "transfer":
        return reduced_tasks(data, config.pairs, config.inputs, width, seed=config.seed)
    trunk = trained_trunk(
        run, data, width, epochs=config.trunk_epochs, seed=config.seed, kept=config.trunks
    )
    with run.timed("features"):
        return pair_tasks(data, config.pairs, trunk)


class _Job(NamedTuple):
    """One model on one pair: `function(run, task, config, *own)` trains it and gives its cell."""

    function: Callable[..., Cell]
    task: PairTask
    own: tuple[Any, ...]
    keys: tuple[str, ...] = ()  # of the files it leaves

    def here(self, run: Run, config: QcnnConfig) -> Cell:
        return self.function(run, self.task, config, *self.own)

    def unit(self, config: QcnnConfig) -> Unit:
        leaves = tuple(str(_file(key, self.task)) for key in self.keys)
        return Unit(self.function, (self.task, config), self.own, leaves)


def _train(
    run: Run, tasks: list[PairTask], models: list[tuple[str, str]], config: QcnnConfig
) -> list[Cell]:
    """Train every cell, several at a time, and return them in a fixed order."""
    jobs: list[_Job] = []
    for task in tasks:
        jobs += [_Job(_model, task, (model,), ("-".join(model),)) for model in models]
        jobs += _control_jobs(task, models) if config.controls else ()
    run.spread(run, (job.unit(config) for job in jobs if job.keys))
    return [job.here(run, config) for job in jobs]


def _control_jobs(task: PairTask, models: list[tuple[str, str]]) -> Iterator[_Job]:
    for control in controls_for(task.training.inputs.shape[1]):
        name = control.name
        if control.is_published:
            yield _Job(_control, task, (name,), (name,))
        yield _Job(_tuned_control, task, (name,), (f"tuned-{name}", f"tuned-{name}-rate"))
    yield _Job(_logistic, task, ())
    if REFERENCE in models:
        key = "tuned-" + "-".join(REFERENCE)
        yield _Job(_tuned_model, task, (), (key, f"{key}-rate"))


def _file(key: str, task: PairTask) -> Path:
    """Return where a model is kept below the folder of the run, or the rate found for it."""
    model = key.removesuffix("-rate")
    ending = "-rate.json" if model != key else ".safetensors"
    return Path("heads") / f"{model}-{task.name}{ending}"


def _work_of_one(config: QcnnConfig) -> float:
    return HEAD_WORK * config.steps * config.batch_size


def _head(task: PairTask, model: tuple[str, str], config: QcnnConfig) -> QcnnHead:
    width = task.training.inputs.shape[1]
    return QcnnHead(width, 2, ansatz=model[0], pooling=model[1], embedding=config.embedding)


def _recipe(config: QcnnConfig, **changes: Any) -> StepRecipe:
    recipe = StepRecipe(
        config.steps, config.batch_size, config.learning_rate, config.optimiser, config.cost
    )
    return recipe._replace(**changes)


def _model(run: Run, task: PairTask, config: QcnnConfig, model: tuple[str, str]) -> Cell:
    contestant = Contestant("-".join(model), partial(_head, task, model, config), _recipe(config))
    scores = _cell(run, contestant, task, config)
    return Cell(model[0], model[1], task.name, contestant.recipe.learning_rate, scores)


def _tuned_model(run: Run, task: PairTask, config: QcnnConfig) -> Cell:
    name = " ".join(REFERENCE)
    contestant = Contestant("tuned-" + "-".join(REFERENCE), partial(_head, task, REFERENCE, config),
                            _recipe(config))  # fmt: skip
    return _tuned(run, f"{name}, tuned rate", contestant, task, config)


def _control_recipe(config: QcnnConfig) -> StepRecipe:
    return _recipe(config, learning_rate=PUBLISHED_RATE, optimiser="adam", cost="cross-entropy")


def _control(run: Run, task: PairTask, config: QcnnConfig, name: str) -> Cell:
    build = partial(_named(name).build, task.training.inputs.shape[1])
    contestant = Contestant(name, build, _control_recipe(config), PUBLISHED_FIRST)
    scores = _cell(run, contestant, task, config)
    return Cell(name, "", task.name, PUBLISHED_RATE, scores)


def _tuned_control(run: Run, task: PairTask, config: QcnnConfig, name: str) -> Cell:
    build = partial(_named(name).build, task.training.inputs.shape[1])
    contestant = Contestant(f"tuned-{name}", build, _control_recipe(config))
    return _tuned(run, f"{name}, tuned rate", contestant, task, config)


def _named(name: str) -> Control:
    return next(control for control in CONTROLS if control.name == name)


def _tuned(run: Run, name: str, contestant: Contestant, task: PairTask, config: QcnnConfig) -> Cell:
    """Train a cell at the rate that does best on held-out training samples."""
    path = run.folder / _file(f"{contestant.key}-rate", task)
    if path.exists():
        rate = float(read_json(path)["learning_rate"])
    else:
        rate = tuned_rate(contestant, task, seed=config.seed)
        write_json(path, {"learning_rate": rate})
    work = _work_of_one(config) * len(RATES) * TUNING_SEEDS
    run.advance(work, f"{name} on {task.name}, rate {rate:g}")
    contestant = contestant._replace(recipe=contestant.recipe._replace(learning_rate=rate))
    return Cell(name, "", task.name, rate, _cell(run, contestant, task, config))


def _logistic(run: Run, task: PairTask, config: QcnnConfig) -> Cell:
    right = logistic_regression(task)[None]
    n_params = task.training.inputs.shape[1] + 1
    scores = Scores(right, np.zeros((1, 0)), n_params)
    return Cell("logistic regression", "", task.name, None, scores)


def _cell(run: Run, contestant: Contestant, task: PairTask, config: QcnnConfig) -> Scores:
    def report(accuracy: float) -> None:
        note = f"{contestant.key} on {task.name}: {100 * accuracy:.1f} %"
        run.advance(_work_of_one(config), note)

    return train_cell(
        contestant,
        task,
        seed=config.seed,
        n_seeds=config.seeds,
        folder=run.folder / "heads",
        on_seed=report,
    )


def _work(config: QcnnConfig, data: TransferData, n_models: int) -> float:
    heads = n_models * config.seeds
    if config.controls:
        heads += 7 * config.seeds + 5 * len(RATES) * TUNING_SEEDS
    work = _work_of_one(config) * heads * len(config.pairs)
    trains = config.inputs == "transfer" and config.trunks is None
    return work + (len(data.source.labels) * config.trunk_epochs if trains else 0)


def _described(data: TransferData, config: QcnnConfig, tasks: list[PairTask]) -> dict[str, Any]:
    import hashlib

    sha = hashlib.sha256()
    for part in (data.source, data.training, data.test):
        sha.update(part.images.tobytes())
        sha.update(part.labels.tobytes())
    sizes = {t.name: [len(t.training.labels), len(t.test.labels)] for t in tasks}
    return {"digest": sha.hexdigest(), "splits": sizes}


def _summary(data: TransferData, tasks: list[PairTask]) -> dict[str, Any]:
    return {
        "n_source": len(data.source.labels),
        "pairs": {
            t.name: {"training": len(t.training.labels), "test": len(t.test.labels)} for t in tasks
        },
        "n_features": int(tasks[0].training.inputs.shape[1]),
    }
