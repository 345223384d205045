"""What an audit says: findings, worst first."""

from __future__ import annotations

from collections.abc import Iterable, Sized
from typing import Literal, get_args

from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

Severity = Literal["high", "medium", "low"]


class Finding(TypedDict):
    """One thing a reader should know before believing a score.

    Attributes:
        kind: the check, as listed in docs/audit.md.
        severity: `"high"` makes scores wrong, `"medium"` may, `"low"` is untidy.
        where: the images, pairs of images, boxes or classes concerned.
        message: what was found, in numbers, and what to do.
    """

    kind: str
    severity: Severity
    where: list[str]
    message: str


def finding(kind: str, severity: Severity, where: Iterable[str], message: str) -> Finding:
    """Return a finding."""
    return {
        "kind": kind,
        "severity": severity,
        "where": list(where),
        "message": message,
    }


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings by severity, in their own order within one severity."""
    order = get_args(Severity)
    return sorted(findings, key=lambda found: order.index(found["severity"]))


def counted(things: Sized, one: str, many: str = "") -> str:
    """Return "1 image" or "3 images"."""
    n = len(things)
    return f"{n:,} {one if n == 1 else many or f'{one}s'}"
