"""Settings of every study, checked all at once and written into the run as plain JSON."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from qgraft.errors import ConfigError

Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0, le=1)]


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
    seed: Annotated[int, Field(ge=0)] = 0
    batch_size: Positive = 64
    learning_rate: Rate = 1e-3
    head_learning_rate: Rate = 8e-4
    mixed_precision: bool = False
    n_qubits: Annotated[int, Field(ge=1, le=12)] = 5
    depth: Positive = 3
    on_error: Literal["fail", "skip"] = "fail"


class SurfaceConfig(TrainingConfig):
    """Settings of `reproduce surface` and `demo`."""

    study: Literal["surface"] = "surface"
    data: str
    models: tuple[Literal["cm1", "cm2", "cm3"], ...] = Field(
        default=("cm1", "cm2", "cm3"), min_length=1
    )
    variants: Literal["published", "all"] = "published"
    classes: tuple[str, ...] | None = None
    per_class: Positive = 1103

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
    trunk: Literal["cm1", "cm2", "cm3"] = "cm2"
    trunk_weights: str | None = None
    head: str = "dressed"
    replace_last: Positive | Literal["all"] = "all"
    colour: bool = False
    classes: tuple[str, ...] | None = None
    per_class: Positive | None = None
    inits: Positive = 1
    epochs: Positive = 30


Config = TypeVar("Config", bound=TrainingConfig)


def resolve(kind: type[Config], values: dict[str, Any]) -> Config:
    """Return a checked configuration.

    Raises:
        ConfigError: every wrong setting, each with its value and what is allowed.
    """
    try:
        return kind(**values)
    except ValidationError as error:
        faults = [_sentence(fault, kind) for fault in error.errors()]
        raise ConfigError("; ".join(faults)) from None


def _sentence(fault: Any, kind: type[BaseModel]) -> str:
    name = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        close = difflib.get_close_matches(name, kind.model_fields, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(kind.model_fields)}"
        return f"unknown setting {name!r}; {hint}"
    return f"{name} = {fault['input']!r}: {fault['msg'][0].lower()}{fault['msg'][1:]}"
