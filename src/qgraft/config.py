"""Settings of every study, checked all at once and written into the run as plain JSON."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from qgraft.errors import ConfigError

Positive = Annotated[int, Field(ge=1, le=10**9)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
SHOWN = 120  # characters of a wrong value in a message
Rate = Annotated[float, Field(gt=0, le=1)]
TrunkName = Literal["cm1", "cm2", "cm3", "mobilenetv2", "resnet18", "mobilenetv2+resnet18"]


class TrainingConfig(BaseModel):
    """What every two-stage study shares: a classical stage, then heads in folds.

    The defaults are those of arXiv 2409.00228, section IV.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    study: str
    protocol: Literal["paper", "clean"] = "clean"
    inits: Positive = 5
    epochs: Positive = 120
    head_epochs: Positive = 40
    folds: Annotated[int, Field(ge=2, le=20)] = 6
    seed: Seed = 0
    batch_size: Positive = 64
    learning_rate: Rate = 1e-3
    head_learning_rate: Rate = 8e-4
    mixed_precision: bool = False
    weights: str | None = None
    tune_epochs: Annotated[int, Field(ge=0, le=10**9)] = 0
    tune_learning_rate: Rate = 5e-5
    n_qubits: Annotated[int, Field(ge=1, le=12)] = 5
    depth: Positive = 3
    controls: bool = False
    head_seeds: Positive = 1
    on_error: Literal["fail", "skip"] = "fail"


class SurfaceConfig(TrainingConfig):
    """Settings of `reproduce surface` and `demo`."""

    study: Literal["surface"] = "surface"
    data: str
    task: Literal["anomaly", "types"] = "anomaly"
    models: tuple[TrunkName, ...] = Field(default=("cm1", "cm2", "cm3"), min_length=1)
    variants: Literal["published", "all"] = "published"
    classes: tuple[str, ...] | None = None
    per_class: Positive = 1103
    controls: bool = True
    head_seeds: Positive = 5

    @field_validator("models")
    @classmethod
    def _once_each(cls, models: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(models)) < len(models):
            raise ValueError("name each network once")
        return models


class FitConfig(TrainingConfig):
    """Settings of `fit`."""

    study: Literal["fit"] = "fit"
    data: str
    trunk: TrunkName = "cm2"
    trunk_weights: str | None = None
    head: str = "dressed"
    replace_last: Positive | Literal["all"] = "all"
    colour: bool = False
    classes: tuple[str, ...] | None = None
    per_class: Positive | None = None
    inits: Positive = 1
    epochs: Positive = 30


class NewDefectConfig(TrainingConfig):
    """Settings of `reproduce new-defect`."""

    study: Literal["new-defect"] = "new-defect"
    data: str
    trunk: Literal["cm1", "cm2", "cm3"] = "cm3"
    weights: str | None = None
    replace_last: Positive | Literal["all"] = "all"
    types: tuple[str, ...] | None = None
    leave_out: tuple[str, ...] | None = None
    heads: tuple[str, ...] = Field(default=("dressed", "dense"), min_length=1)
    shots: tuple[Positive, ...] = Field(default=(5, 10, 20, 50), min_length=1)
    seeds: Positive = 5
    epochs: Positive = 40

    @field_validator("heads", "shots", "types", "leave_out")
    @classmethod
    def _no_repeats(cls, values: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        if values is not None and len(set(values)) < len(values):
            raise ValueError("name each one once")
        return values


class QcnnConfig(BaseModel):
    """Settings of `reproduce qcnn`; the defaults are those of arXiv 2208.14708."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    study: Literal["qcnn"] = "qcnn"
    data: str
    ansatz: tuple[str, ...] = Field(min_length=1)
    pooling: tuple[str, ...] = Field(min_length=1)
    published_only: bool = True
    pairs: tuple[tuple[int, int], ...] = Field(default=((0, 1), (2, 3), (8, 9)), min_length=1)
    seeds: Positive = 10
    embedding: str = "amplitude"
    inputs: Literal["transfer", "pca", "autoencoder"] = "transfer"
    target: Literal["mnist", "fashion-mnist"] = "mnist"
    steps: Positive = 200
    batch_size: Positive = 50
    learning_rate: Rate = 0.01
    optimiser: Literal["adam", "nesterov", "lbfgs", "spsa"] = "adam"
    cost: Literal["cross-entropy", "mse"] = "cross-entropy"
    controls: bool = True
    trunk_epochs: Positive = 5
    trunks: str | None = None
    seed: Seed = 0

    @field_validator("ansatz", "pooling", "pairs")
    @classmethod
    def _no_repeats(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(values)) < len(values):
            raise ValueError("name each one once")
        return values

    @field_validator("pairs")
    @classmethod
    def _two_classes(cls, pairs: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
        if any(a == b or not 0 <= min(a, b) <= max(a, b) <= 9 for a, b in pairs):
            raise ValueError("a pair is two different classes from 0 to 9, as in 0-1")
        return pairs


class DistillConfig(BaseModel):
    """Settings of `distill` and `reproduce distill`; defaults as in arXiv 2311.13810, version 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    study: Literal["distill"] = "distill"
    data: str
    protocol: Literal["paper", "clean"] = "clean"
    datasets: tuple[str, ...] = Field(default=("mnist", "fashion-mnist"), min_length=1)
    classes: tuple[Literal["0-5", "0-7", "all"], ...] = Field(default=("0-5",), min_length=1)
    qubits: tuple[Annotated[int, Field(ge=1, le=12)], ...] = Field(default=(3,), min_length=1)
    teachers: tuple[str, ...] = Field(default=("lenet",), min_length=1)
    students: tuple[str, ...] = Field(default=("v1",), min_length=1)
    controls: bool = True
    teacher_epochs: Positive = 10
    trunks: str | None = None
    mixed_precision: bool = False
    per_class: Positive | Literal["all"] = 150
    unlabelled: Annotated[int, Field(ge=0)] = 0
    epochs: Positive = 10
    batch_size: Positive = 1
    learning_rate: Rate = 1e-3
    depth: Positive = 3
    shots: Annotated[int, Field(ge=1, le=10**6)] | Literal["published"] | None = None
    published_gradient: bool = False
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.9
    temperature: Annotated[float, Field(ge=0.01, le=1000)] = 3.0
    last_temperature: Annotated[float, Field(ge=0.01, le=1000)] | None = None
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    form: Literal["weighted", "published"] = "weighted"
    attention: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    relations: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    seeds: Annotated[int, Field(ge=1, le=1000)] = 10
    seed: Seed = 0

    @field_validator("datasets", "classes", "qubits", "teachers", "students")
    @classmethod
    def _no_repeats(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(values)) < len(values):
            raise ValueError("name each one once")
        return values


class ImagePairConfig(BaseModel):
    """Settings of `reproduce ants-bees` and `reproduce cifar`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    study: Literal["ants-bees", "cifar"]
    data: str
    trunk: Literal["mobilenetv2", "resnet18"] = "mobilenetv2"
    weights: str | None = None
    side: Annotated[int, Field(ge=32, le=512)] = 224
    mirror: bool = False
    standardise: bool = False
    heads: tuple[
        Literal["dressed", "linear", "dense-4", "dense-512", "no-circuit", "matched-sine"], ...
    ] = Field(
        default=("dressed", "linear", "dense-4", "dense-512", "no-circuit", "matched-sine"),
        min_length=1,
    )
    head_epochs: Positive | None = None
    watch: bool = True
    seeds: Positive = 5
    seed: Seed = 0


class SpiralsConfig(BaseModel):
    """Settings of `reproduce spirals`; the defaults are those of arXiv 1912.08278, example 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    study: Literal["spirals"] = "spirals"
    shapes: tuple[str, ...] = Field(default=("spirals-1.52", "spirals-2.0"), min_length=1)
    epochs: Positive = 5
    seeds: Positive = 12
    seed: Seed = 55


class PhotonicConfig(BaseModel):
    """Settings of `reproduce photonic-qc` and `photonic-qq`; defaults of arXiv 1912.08278."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    study: Literal["photonic-qc", "photonic-qq"]
    steps: tuple[Positive, ...] = Field(min_length=1)
    test_batches: Positive
    source_steps: Positive = 5000
    source_spread: float = Field(default=0.1, gt=0, le=1)
    source: str | None = None
    keep: tuple[Annotated[int, Field(ge=0, le=25)], ...] = Field(default=(15,), min_length=1)
    seeds: Positive = 5
    seed: Seed = 0


Config = TypeVar("Config", bound=BaseModel)


def resolve(kind: type[Config], values: dict[str, Any], *, strict: bool = False) -> Config:
    """Return a checked configuration; `strict` takes no text for a number and no 1 for true.

    Raises:
        ConfigError: every wrong setting, each with its value and what is allowed.
    """
    try:
        return kind.model_validate(values, strict=strict)
    except ValidationError as error:
        found = error.errors()
        deeper = {fault["loc"][:1] for fault in found if len(fault["loc"]) > 1}
        # A list whose members are wrong counts as empty too, which nobody wrote.
        told = [f for f in found if f["type"] != "too_short" or f["loc"] not in deeper]
        faults = [_sentence(fault, kind) for fault in told]
        raise ConfigError("; ".join(faults)) from None


def _sentence(fault: Any, kind: type[BaseModel]) -> str:
    name = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        name = name if len(name) <= SHOWN else f"{name[:SHOWN]}..."
        close = difflib.get_close_matches(name, kind.model_fields, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(kind.model_fields)}"
        return f"unknown setting {name!r}; {hint}"
    return f"{name} = {_shown(fault['input'])}: {fault['msg'][0].lower()}{fault['msg'][1:]}"


def _shown(value: Any) -> str:
    """Return a value as it is written, cut to a length that fits a message."""
    try:
        text = repr(value)
    except ValueError:  # a number of thousands of digits
        return "a number too long to show"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
