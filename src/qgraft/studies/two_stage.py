"""The recipe behind every surface study: classical networks, grafts in folds, one result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from qgraft.config import TrainingConfig
from qgraft.data.imageset import ImageSet
from qgraft.data.splits import Splits
from qgraft.evaluation.audit import audit_images
from qgraft.evaluation.shortcuts import spectrum_control
from qgraft.studies.classical import (
    Trained,
    classical_work,
    load_classical,
    network_units,
    train_classical,
    trunk_file,
)
from qgraft.studies.control_heads import QUANTUM, Bench, control_work
from qgraft.studies.decisions import DECISION, THRESHOLDS_FILE, decide, decision_work
from qgraft.studies.evidence import Answers, collect_answers, weigh
from qgraft.studies.hybrid import (
    FINAL,
    Hybrid,
    head_file,
    head_options,
    hybrid_samples,
    hybrid_work,
    train_hybrid,
)
from qgraft.studies.results import Findings, data_summary
from qgraft.studies.run import Run, Unit, keep_data
from qgraft.studies.two_stage_units import Place, head_units
from qgraft.training.checkpoint import write_json
from qgraft.training.loop import keep_freed_memory
from qgraft.trunks.registry import TRUNKS

MODELS_FILE = "models.json"


class Plan(NamedTuple):
    """One classical network, trained or loaded, and the grafts to make from it."""

    name: str
    trunk: str
    hybrids: Sequence[Hybrid]
    weights: Path | None = None


def no_facts(model: str, variant: str) -> dict[str, Any]:
    """Return nothing further about a row."""
    return {}


def run_two_stage(
    run: Run,
    images: ImageSet,
    splits: Splits,
    plans: Sequence[Plan],
    config: TrainingConfig,
    *,
    notes: Sequence[str],
    facts: Callable[[str, str], dict[str, Any]] = no_facts,
) -> dict[str, Any]:
    """Train what is not in `run.folder` yet and return the content of `result.json`.

    Args:
        run: where everything goes.
        images: all images.
        splits: who may see which of them.
        plans: the networks and their grafts.
        config: training settings.
        notes: what a reader must know to read the scores.
        facts: further columns of a row, from model and variant (published values).
    """
    keep_freed_memory()
    summary = data_summary(images)
    keep_data(
        run.folder, {"summary": summary, "digest": images.digest(), "splits": splits.to_json()}
    )
    run.work = sum(
        (0.0 if plan.weights else classical_work(plan.trunk, splits, config))
        + len(plan.hybrids) * (hybrid_work(splits, config) + decision_work(splits, config))
        + len(_compared(plan, config)) * control_work(splits, config)
        for plan in plans
    )
    findings = Findings(images, splits)
    answers: list[list[Answers]] = []
    models: dict[str, dict[str, Any]] = {}
    decisions: dict[str, dict[str, Any]] = {}
    own = [plan.trunk for plan in plans if not plan.weights]
    run.spread(run, (u for t in own for u in network_units(t, images, splits, config)))
    networks = [_trained(run, plan, images, splits, config) for plan in plans]
    run.spread(run, _head_units(run, plans, networks, images, splits, config))
    for plan, trained in zip(plans, networks, strict=True):
        trunk_path = plan.weights or trunk_file(run.folder, plan.trunk, trained.kept)
        findings.add_classical(plan.name, trained)
        for hybrid in plan.hybrids:
            grafted = train_hybrid(run, trained.model, plan.name, hybrid, images, splits, config)
            n_dense = TRUNKS[plan.trunk].n_dense
            replaced = n_dense if hybrid.replace_last == "all" else hybrid.replace_last
            findings.add_hybrid(plan.name, hybrid.variant, replaced, grafted)
            if hybrid in _compared(plan, config):
                n_classes = len(images.class_names)
                place = plan.name, trained.model, hybrid, grafted.samples, splits
                answers.append(collect_answers(run, Bench(*place, n_classes, config), grafted))
            binary = len(images.class_names) == 2
            if binary:
                decisions[f"{plan.name}/{hybrid.variant}"] = decide(
                    run, trained.model, plan.name, hybrid, grafted.samples, images, splits, config
                )
            head_path = head_file(run.folder, plan.name, hybrid.variant, FINAL)
            decision_path = head_path.with_stem(DECISION)
            models[f"{plan.name}/{hybrid.variant}"] = {
                "trunk": plan.trunk,
                "trunk_file": _relative(trunk_path, run.folder),
                "head": hybrid.head,
                "head_file": _relative(head_path, run.folder),
                "decision_head_file": _relative(decision_path, run.folder) if binary else None,
                "head_options": head_options(hybrid.head, config),
                "replace_last": hybrid.replace_last,
                "channels": 1 if images.images.ndim == 3 else 3,
                "class_names": list(images.class_names),
            }
    for row in findings.rows:
        row.update(facts(row["model"], row["variant"]))
    result = {
        "study": config.study,
        "protocol": config.protocol,
        "rows": findings.rows,
        "shortcut_control": spectrum_control(images, n_folds=config.folds, seed=config.seed),
        "notes": list(notes),
        "config": config.model_dump(mode="json"),
        "data": summary,
        "audit": audit_images(images, splits),
    }
    if answers:
        result["evidence"] = weigh(answers, images, splits, config)
    write_json(run.folder / MODELS_FILE, models)
    if decisions:
        write_json(run.folder / THRESHOLDS_FILE, decisions)
    findings.write(run.folder, result)
    run.finish()
    return result


def _trained(
    run: Run, plan: Plan, images: ImageSet, splits: Splits, config: TrainingConfig
) -> Trained:
    if plan.weights:
        return load_classical(plan.weights, plan.trunk, images, splits)
    return train_classical(run, plan.trunk, images, splits, config)


def _head_units(
    run: Run,
    plans: Sequence[Plan],
    networks: Sequence[Trained],
    images: ImageSet,
    splits: Splits,
    config: TrainingConfig,
) -> Iterator[Unit]:
    """Give the trainings of all hybrids, once the features of all are there."""
    channels, n_classes = 1 if images.images.ndim == 3 else 3, len(images.class_names)
    units: list[Unit] = []
    for plan, trained in zip(plans, networks, strict=True):
        for hybrid in plan.hybrids:
            samples = hybrid_samples(run, trained.model, plan.name, hybrid, images, config)
            place = Place(plan.name, plan.trunk, channels, n_classes, hybrid)
            compared = hybrid in _compared(plan, config)
            units += head_units(
                place, samples, splits, config, decides=n_classes == 2, compared=compared
            )
    yield from units


def _compared(plan: Plan, config: TrainingConfig) -> list[Hybrid]:
    """Return the hybrids that are compared with controls: those with a circuit."""
    return [h for h in plan.hybrids if config.controls and h.head == QUANTUM.name]


def _relative(path: Path, folder: Path) -> str:
    """Return `path` as seen from the run, so that a run can be moved as a whole."""
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path.resolve())
