"""Knowledge distillation: a student learns from labels and from a teacher's logits.

The default is `(1 - alpha) CE + alpha T**2 KL(teacher || student)` at temperature T (Hinton,
Vinyals and Dean, arXiv 1503.02531). Hasan and Mahdy (arXiv 2311.13810) leave the cross-entropy at
full weight. A student may have more outputs than there are classes; the teacher speaks about the
first of them only. Attention maps (arXiv 1612.03928) and relations between the samples of a batch
(arXiv 1904.05068) can be matched as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import cos, pi
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qgraft.errors import ConfigError, ModelError
from qgraft.training.loop import Loss, Samples, as_float

Form = Literal["weighted", "published"]
Schedule = Literal["constant", "linear", "cosine"]
UNLABELLED = -1  # label of a sample that only the teacher speaks about
ANGLE_WEIGHT = 2.0  # of the angles in relational distillation, as published


class Distillation(NamedTuple):
    """How a student learns from a teacher.

    Attributes:
        alpha: weight of the teacher, 0..1.
        temperature: divides the logits of both in the teacher's part.
        last_temperature: temperature of the last epoch, where a schedule leads to another one.
        schedule: how the temperature moves from the first to the last epoch.
        form: `weighted` leaves `1 - alpha` to the labels, `published` all of it.
        attention: weight of matching attention maps.
        relations: weight of matching relations within a batch.
    """

    alpha: float = 0.9
    temperature: float = 3.0
    last_temperature: float | None = None
    schedule: Schedule = "constant"
    form: Form = "weighted"
    attention: float = 0.0
    relations: float = 0.0

    def temperature_at(self, epoch: int, epochs: int) -> float:
        """Return the temperature of an epoch, counted from 0."""
        last = self.temperature if self.last_temperature is None else self.last_temperature
        if self.schedule == "constant" or epochs < 2:
            return self.temperature
        progress = epoch / (epochs - 1)
        if self.schedule == "cosine":
            progress = (1 - cos(pi * progress)) / 2
        return self.temperature + progress * (last - self.temperature)

    def checked(self) -> Distillation:
        """Return these settings.

        Raises:
            ConfigError: one is out of range or they do not go together.
        """
        faults = []
        if not 0 <= self.alpha <= 1:
            faults.append(f"alpha must be from 0 to 1, got {self.alpha}")
        for name in ("temperature", "last_temperature"):
            value = getattr(self, name)
            if value is not None and not 0.01 <= value <= 1000:
                faults.append(f"{name} must be from 0.01 to 1000, got {value}")
        if (self.schedule == "constant") != (self.last_temperature is None):
            faults.append(
                "a schedule and last_temperature go together: give schedule='linear' or 'cosine' "
                "and the temperature it leads to"
            )
        for name in ("attention", "relations"):
            if not 0 <= getattr(self, name) <= 1e6:
                faults.append(f"{name} must be from 0 to 1e6, got {getattr(self, name)}")
        if faults:
            raise ConfigError("; ".join(faults))
        return self


def teacher_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return `T**2 KL(softmax(teacher / T) || softmax(student / T))`, mean over the batch.

    Args:
        student: logits `(batch, k)`; those after the teacher's classes are left out.
        teacher: logits `(batch, n_classes)`.
        temperature: T.
    """
    ours = F.log_softmax(student[:, : teacher.shape[1]] / temperature, dim=1)
    theirs = F.log_softmax(teacher / temperature, dim=1)
    kl = F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
    return temperature**2 * kl


def distillation_loss(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    *,
    alpha: float,
    temperature: float,
    form: Form = "weighted",
) -> Tensor:
    """Return the loss of a batch.

    Args:
        student: logits `(batch, k)`, k not less than the classes.
        teacher: logits `(batch, n_classes)`.
        labels: classes `(batch,)`; where `UNLABELLED`, only the teacher's part counts.
        alpha: weight of the teacher.
        temperature: T.
        form: whether the labels count `1 - alpha` (`weighted`) or 1 (`published`).
    """
    by_label = labelled_loss(student, labels)
    by_teacher = alpha * teacher_divergence(student, teacher, temperature)
    return by_label * (1 - alpha if form == "weighted" else 1.0) + by_teacher


def labelled_loss(student: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy, mean over the labelled samples of a batch; 0 without any."""
    if not (labels == UNLABELLED).any():
        return F.cross_entropy(student, labels)
    total = F.cross_entropy(student, labels, ignore_index=UNLABELLED, reduction="sum")
    return total / (labels != UNLABELLED).sum().clamp_min(1)


def attention_map(maps: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """Return the attention `(batch, h * w)` of activations `(batch, channels, h, w)`.

    Squares are averaged over the channels, averaged to `size` if given, and brought to unit norm
    (Zagoruyko and Komodakis, arXiv 1612.03928, eq. 1 with p = 2).
    """
    energy = maps.float().square().mean(1, keepdim=True)
    if size is not None:
        energy = F.adaptive_avg_pool2d(energy, size)
    return F.normalize(energy.flatten(1), dim=1)


def attention_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared distance of two attentions `(batch, h * w)`."""
    return (student - teacher).square().sum(1).mean()


def relational_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return how far distances and angles within a batch differ, as Huber losses.

    Distances are divided by their mean; the angles are those of all triples, at twice the weight
    (Park et al., arXiv 1904.05068, eq. 5-8). A batch of one has none.

    Args:
        student: outputs `(batch, k)`.
        teacher: outputs `(batch, m)`.
    """
    if len(student) < 2:
        return student.sum() * 0.0
    distances = F.smooth_l1_loss(_distances(student), _distances(teacher))
    return distances + ANGLE_WEIGHT * F.smooth_l1_loss(_cosines(student), _cosines(teacher))


def _distances(points: Tensor) -> Tensor:
    distances = torch.pdist(points)
    return distances / distances.mean().clamp_min(1e-8)


def _cosines(points: Tensor) -> Tensor:
    """Return the cosine at sample j between samples i and k, `(batch, batch, batch)`."""
    directions = F.normalize(points[None] - points[:, None], dim=2)
    return directions @ directions.transpose(1, 2)


class Taught(NamedTuple):
    """What a teacher says about the training samples, in their order.

    Attributes:
        logits: `(n, n_classes)`.
        attention: `(n, h * w)`, where attention is matched.
        size: height and width of the attention.
    """

    logits: Tensor
    attention: Tensor | None = None
    size: tuple[int, int] | None = None


@dataclass
class _Watched:
    """What a module put out last."""

    output: Tensor | None = field(default=None)

    def __call__(self, module: nn.Module, inputs: object, output: Tensor) -> None:
        self.output = output


def last_convolution(model: nn.Module) -> nn.Module:
    """Return the last convolution of a network, whose maps tell where it looks.

    Raises:
        ModelError: there is none.
    """
    found = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    if not found:
        raise ModelError(
            f"{type(model).__name__} has no convolution, so it has no attention to match; "
            "set attention to 0"
        )
    return found[-1]


@torch.no_grad()
def teach(teacher: nn.Module, inputs: Tensor, *, batch_size: int = 256) -> Taught:
    """Return logits and attention of a teacher in evaluation mode, for any inputs it takes.

    Raises:
        ModelError: the teacher has no convolution.
    """
    seen, parts, size = _Watched(), [], None
    handle = last_convolution(teacher).register_forward_hook(seen)
    teacher.eval()
    try:
        for part in inputs.split(batch_size):
            logits = teacher(as_float(part))
            assert seen.output is not None
            size = seen.output.shape[2], seen.output.shape[3]
            parts.append((logits.float(), attention_map(seen.output)))
    finally:
        handle.remove()
    return Taught(torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts]), size)


@contextmanager
def distilled(
    student: nn.Module, taught: Taught, how: Distillation, *, epochs: int
) -> Iterator[Loss]:
    """Give the loss that `train` lowers for `student`; inside the block its attention is watched.

    Raises:
        ConfigError: the settings are out of range or need what the teacher did not say.
    """
    how = how.checked()
    if how.attention and taught.attention is None:
        raise ConfigError("this teacher left no attention maps; set attention to 0")
    seen = _Watched()
    handle = last_convolution(student).register_forward_hook(seen) if how.attention else None

    def loss(epoch: int, logits: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        teacher = taught.logits[index]
        temperature = how.temperature_at(epoch, epochs)
        total = distillation_loss(
            logits, teacher, labels, alpha=how.alpha, temperature=temperature, form=how.form
        )
        if how.relations:
            ours = logits[:, : teacher.shape[1]]
            total = total + how.relations * relational_loss(ours, teacher)
        if how.attention:
            assert seen.output is not None
            assert taught.attention is not None
            ours = attention_map(seen.output, taught.size)
            total = total + how.attention * attention_loss(ours, taught.attention[index])
        return total

    try:
        yield loss
    finally:
        if handle is not None:
            handle.remove()


class Ensemble(nn.Module):
    """Several teachers as one: the mean of their logits, or of their probabilities.

    Args:
        members: networks with the same inputs and classes.
        mean: `logits` as published, or `probabilities`, whose logarithm is returned.
    """

    def __init__(
        self, members: Sequence[nn.Module], mean: Literal["logits", "probabilities"] = "logits"
    ) -> None:
        super().__init__()
        if not members:
            raise ModelError("an ensemble needs at least one member")
        if mean not in ("logits", "probabilities"):
            raise ModelError(f"unknown mean {mean!r}; use logits or probabilities")
        self.members, self.mean = nn.ModuleList(members), mean

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits `(batch, n_classes)`."""
        logits = torch.stack([member(inputs) for member in self.members])
        if self.mean == "logits":
            return logits.mean(0)
        return logits.log_softmax(-1).logsumexp(0) - np.log(len(self.members))

    def extra_repr(self) -> str:
        """Say which mean, so that caches tell the two apart."""
        return f"mean={self.mean}"


def uniform_teacher(samples: Samples, n_classes: int) -> Taught:
    """Return a teacher that knows nothing: what remains is label smoothing."""
    return Taught(torch.zeros(len(samples.labels), n_classes))
