"""A trained head on the way to hardware: its score under shots, noise and what helps against it.

Nothing is trained but copies of the head, nothing of the run is changed. Scores are on images
that the head did not learn from.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, TypedDict

import numpy as np
import torch
from torch import nn

from qgraft.evaluation.metrics import score
from qgraft.heads.measured import MeasuredHead, Run, measured_head
from qgraft.seeds import derive, numpy_rng
from qgraft.simulate.execution import Execution
from qgraft.simulate.noise import NoiseModel, depolarizing
from qgraft.studies.hardware_heads import HeadData
from qgraft.training.loop import Samples, predict_logits
from qgraft.training.one_thread import one_thread

SHOTS = (8, 32, 128, 512, 2048, 8192)
STRENGTHS = (0.0, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
READOUT = (0.02, 0.05)  # a 1 decays while it is read, so it is misread more often than a 0
MITIGATION_SHOTS = 8192
PUBLISHED = (
    {"device": "IBM ibmqx4, 4 qubits", "task": "ants or bees", "accuracy": 0.95},
    {"device": "Rigetti Aspen-4-4Q-A, 1,024 shots", "task": "ants or bees", "accuracy": 0.80},
)
PUBLISHED_SOURCE = "Mari et al., arXiv 1912.08278: trained on a simulator, run on the device"

Progress = Callable[[float, float, str], None]


class Point(TypedDict):
    """Scores under one condition; fractions, over `repeats` draws of the outcomes.

    `log_loss` is the mean cross-entropy, `same_class` the share of images that get the class the
    head gives them on an ideal device.
    """

    condition: str
    strength: float | None
    shots: int | None
    f1: float
    f1_std: float
    accuracy: float
    auc: float
    log_loss: float
    same_class: float
    repeats: int


def run_noise_study(
    data: HeadData,
    *,
    shots: Sequence[int] = SHOTS,
    strengths: Sequence[float] = STRENGTHS,
    repeats: int = 5,
    epochs: int = 5,
    seed: int = 0,
    progress: Progress = lambda done, total, note: None,
) -> dict[str, Any]:
    """Score a head against shots, noise, mitigation and training under noise.

    Args:
        data: the head and its samples.
        shots: numbers of shots on an ideal device.
        strengths: depolarising probability after every gate, on each of its qubits.
        repeats: draws of the outcomes wherever there are shots.
        epochs: of the training under noise, and of its control without noise.
        seed: decides the outcomes and the order of samples.
        progress: is told how far it is.
    """
    jobs: list[tuple[str, float | None, Execution, nn.Module]] = [
        ("ideal", None, Execution(), data.head)
    ]
    jobs += [("shots", None, Execution(shots=count), data.head) for count in shots]
    wanted = [strength for strength in strengths if strength > 0]
    n_work = float(len(jobs) + 6 * len(wanted) + 3)
    longer = train_under(data, None, epochs, seed)
    for strength in wanted:
        noise = depolarizing(strength)
        progress(float(len(jobs)), n_work, f"training under noise {strength:g}")
        tuned = train_under(data, noise, epochs, seed)
        sampled = Execution(noise=noise, shots=MITIGATION_SHOTS)
        folded = Execution(noise=noise, shots=MITIGATION_SHOTS, folds=(1, 3))
        jobs += [
            ("noise", strength, Execution(noise=noise), data.head),
            ("noise, extrapolated", strength, Execution(noise=noise, folds=(1, 3)), data.head),
            ("noise and shots", strength, sampled, data.head),
            ("noise and shots, extrapolated", strength, folded, data.head),
            ("noise, trained under it", strength, Execution(noise=noise), tuned),
            ("noise, trained as long without", strength, Execution(noise=noise), longer),
        ]
    misread = NoiseModel(readout=READOUT)
    jobs += [
        ("read-out errors", None, Execution(noise=misread), data.head),
        ("read-out errors, undone", None, Execution(noise=misread, unmix=True), data.head),
    ]
    points, ideal = [], predict_logits(data.head, data.holdout.inputs).argmax(1)
    for number, (condition, strength, how, head) in enumerate(jobs):
        progress(number + n_work - len(jobs), n_work, condition)
        points.append(_point(condition, strength, how, head, data.holdout, ideal, repeats, seed))
    return {
        "task": data.task,
        "variant": data.variant,
        "holdout_images": len(data.holdout.labels),
        "points": points,
        "readout_errors": READOUT,
        "mitigation_shots": MITIGATION_SHOTS,
        "training_epochs_under_noise": epochs,
        "published": list(PUBLISHED),
        "published_source": PUBLISHED_SOURCE,
    }


def _point(
    condition: str,
    strength: float | None,
    how: Execution,
    head: nn.Module,
    samples: Samples,
    ideal: torch.Tensor,
    repeats: int,
    seed: int,
) -> Point:
    draws = repeats if how.shots is not None else 1
    found = [
        score_head(measured_head(head, how, derive(seed, condition, draw)), samples, ideal)
        for draw in range(draws)
    ]

    def mean(name: str) -> float:
        return float(np.mean([scores[name] for scores in found]))

    return {
        "condition": condition,
        "strength": strength,
        "shots": how.shots,
        "f1": mean("f1"),
        "f1_std": float(np.std([scores["f1"] for scores in found])),
        "accuracy": mean("accuracy"),
        "auc": mean("auc"),
        "log_loss": mean("log_loss"),
        "same_class": mean("same_class"),
        "repeats": draws,
    }


@torch.no_grad()
def score_head(head: nn.Module, samples: Samples, ideal: torch.Tensor) -> dict[str, Any]:
    """Return the scores of a head on features; `ideal` are the classes on an ideal device."""
    logits = predict_logits(head, samples.inputs)
    return {
        **score(logits.softmax(-1).numpy(), samples.labels.numpy()),
        "log_loss": float(nn.functional.cross_entropy(logits, samples.labels)),
        "same_class": float((logits.argmax(1) == ideal).double().mean()),
    }


@one_thread()
def train_under(
    data: HeadData, noise: NoiseModel | None, epochs: int, seed: int, batch_size: int = 64
) -> nn.Module:
    """Return a copy of the head, trained on under noise with Adam at the rate 8e-4."""
    head = copy.deepcopy(data.head)
    model = measured_head(head, Execution(noise=noise), seed)
    optimiser = torch.optim.Adam(model.parameters(), 8e-4)
    samples = data.development
    for epoch in range(epochs):
        order = numpy_rng(seed, "order under noise", epoch).permutation(len(samples.labels))
        for batch in np.array_split(order, max(1, len(order) // batch_size)):
            features, labels = samples.at(torch.from_numpy(batch))
            loss = nn.functional.cross_entropy(model(features), labels)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
    return head


def score_on_device(data: HeadData, run: Run, n_images: int, seed: int = 0) -> dict[str, Any]:
    """Score a head on a device over some hold-out images, beside the ideal simulator.

    The images are drawn evenly from the classes unless all are wanted, the same for every device.
    """
    labels = data.holdout.labels.numpy()
    random = numpy_rng(seed, "images for a device")
    classes = np.unique(labels)
    share = [random.permutation(np.flatnonzero(labels == one)) for one in classes]
    each = -(-n_images // len(classes))
    chosen = np.sort(np.concatenate([part[:each] for part in share])[:n_images])
    if n_images >= len(labels):
        chosen = np.arange(len(labels))
    samples = data.holdout.subset(chosen)
    with torch.no_grad():
        ideal = data.head.eval()(samples.inputs).softmax(-1)
        found = MeasuredHead(data.head, run)(samples.inputs).softmax(-1)
    return {
        "images": len(chosen),
        "device": dict(score(found.numpy(), samples.labels.numpy())),
        "ideal": dict(score(ideal.numpy(), samples.labels.numpy())),
        "largest_difference": float((found - ideal).abs().max()),
        "same_class": float((found.argmax(1) == ideal.argmax(1)).double().mean()),
    }
