"""Table III of arXiv 2409.00228 as published, and the same table counted on the real models."""

from __future__ import annotations

from typing import Any, NamedTuple

from qgraft.grafting import graft
from qgraft.trunks.surface_cnn import surface_cnn


class Published(NamedTuple):
    """One row of the table.

    Attributes:
        model: `CM-1`, `CM-2` or `CM-3`.
        variant: `classical`, or `QTL-M-1` to `QTL-M-3`.
        replaced: how many dense layers the head replaces.
        params: the printed number of parameters.
        verified: the number that the described network has.
        f1: the printed F1 in percent.
    """

    model: str
    variant: str
    replaced: int
    params: int
    verified: int
    f1: float

    @property
    def misprint(self) -> bool:
        """True for the two cells where a digit slipped in print."""
        return self.params != self.verified


TABLE_III: tuple[Published, ...] = (
    Published("CM-1", "classical", 0, 1_076_338, 1_076_338, 88.58),
    Published("CM-1", "QTL-M-1", 3, 1_074_078, 1_074_078, 88.91),
    Published("CM-1", "QTL-M-2", 4, 1_066_142, 1_066_142, 88.62),
    Published("CM-1", "QTL-M-3", 5, 671_764, 671_774, 90.08),
    Published("CM-2", "classical", 0, 534_482, 534_482, 95.16),
    Published("CM-2", "QTL-M-1", 2, 533_790, 533_790, 96.62),
    Published("CM-2", "QTL-M-2", 3, 525_824, 525_854, 96.81),
    Published("CM-2", "QTL-M-3", 4, 273_182, 273_182, 98.95),
    Published("CM-3", "classical", 0, 1_125_842, 1_125_842, 97.32),
    Published("CM-3", "QTL-M-1", 2, 1_125_150, 1_125_150, 97.81),
    Published("CM-3", "QTL-M-2", 3, 1_117_214, 1_117_214, 97.90),
    Published("CM-3", "QTL-M-3", 4, 108_830, 108_830, 97.85),
)


def published_variants(model: str) -> dict[str, int]:
    """Return the hybrids published for a model, and how many dense layers each replaces."""
    return {row.variant: row.replaced for row in TABLE_III if row.model == model and row.replaced}


def published_facts(model: str, variant: str) -> dict[str, Any]:
    """Return the published F1 (a fraction) and parameter count, nothing for other variants."""
    for row in TABLE_III:
        if (row.model, row.variant) == (model, variant):
            return {"published_f1": round(row.f1 / 100, 4), "published_params": row.params}
    return {}


def parameter_rows() -> list[dict[str, Any]]:
    """Build and graft the three networks and count: one dictionary per row of Table III.

    `reduction_block` is eq. (7), `reduction_whole` what the table prints; both are None for the
    classical rows.
    """
    return [_row(published) for published in TABLE_III]


def _row(published: Published) -> dict[str, Any]:
    model = surface_cnn(published.model.lower().replace("-", ""))
    row: dict[str, Any] = {
        "model": published.model,
        "variant": published.variant,
        "published": published.params,
        "misprint": published.misprint,
    }
    if not published.replaced:
        count = sum(p.numel() for p in model.parameters())
        empty = {"reduction_whole": None, "reduction_block": None}
        return row | {"params": count, "trainable": count} | empty
    report = graft(model, published.replaced).parameter_report()
    return row | {
        "params": report.total_after,
        "trainable": report.trainable,
        "reduction_whole": report.reduction_whole,
        "reduction_block": report.reduction_block,
    }
