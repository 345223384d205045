"""Classes that are too rare, and properties that tell classes apart without any defect.

A property is reported when its AUC is large *and* cannot be chance. Chance is judged without
assuming large samples: with T_g the part of group g in the rank sum, z = |sum T_g| / sqrt(sum
T_g^2) obeys P(z >= t) <= 2 exp(-t^2 / 2) for symmetric T_g (Hoeffding 1963; Efron 1969), so a
small set cannot raise an alarm, and images of one photograph count once.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np

from qgraft.data.tree import IMAGE_SUFFIXES
from qgraft.evaluation.audit.evidence import Evidence
from qgraft.evaluation.audit.findings import Finding, finding

IMBALANCE = 3.0  # beyond 1 : 3 a constant answer scores 75 % accuracy
SHORTCUT_AUC = 0.65  # below, one number explains little of what a good model scores
STRONG_SHORTCUT_AUC = 0.8  # above, it may explain most
FALSE_ALARMS = 0.001  # how often an audit of clean data may report any shortcut by chance


class Control(NamedTuple):
    """How well one property alone tells one class from the rest.

    Attributes:
        auc: 0.5 to 1, whichever direction is better.
        z: how many times its chance error the AUC lies away from 0.5.
    """

    auc: float
    z: float
    label: int


def class_balance(evidence: Evidence) -> Iterator[Finding]:
    """Report classes that are several times rarer than the most frequent."""
    counts = np.bincount(evidence.labels, minlength=len(evidence.class_names))
    rare = [i for i, n in enumerate(counts) if n * IMBALANCE < counts.max()]
    if rare:
        listed = ", ".join(f"{evidence.class_names[i]} {counts[i]}" for i in rare)
        yield finding(
            "class_balance",
            "medium",
            (evidence.class_names[i] for i in rare),
            f"{listed} images against {counts.max()} of {evidence.class_names[counts.argmax()]}: "
            "collect more, and read F1 and recall, not accuracy",
        )


def shortcuts(evidence: Evidence) -> Iterator[Finding]:
    """Report properties that tell the classes apart better than chance and far enough."""
    controls = shortcut_controls(evidence)
    n_tests = 2 * len(evidence.class_names) * len(controls)
    surprising = np.sqrt(2 * np.log(n_tests / FALSE_ALARMS))
    for name, control in controls.items():
        if control.auc > SHORTCUT_AUC and control.z > surprising:
            label = evidence.class_names[control.label]
            yield finding(
                f"shortcut_{name}",
                "high" if control.auc > STRONG_SHORTCUT_AUC else "medium",
                [label],
                f"{name} alone tells {label} from the rest with AUC {control.auc:.2f} (0.50 is "
                f"chance, z {control.z:.1f}): a model may learn no more than that; {_CURES[name]}",
            )


_CURES = {
    "brightness": "match the exposure of the classes or normalise it",
    "blur": "take both classes with one camera and one magnification (protocol clean)",
    "size": "cut all classes to the same sizes (protocol clean)",
    "shape": "cut all classes to the same shape",
    "colour": "save all classes as grey or all as colour",
    "format": "save all classes in one file format",
}


def shortcut_controls(evidence: Evidence) -> dict[str, Control]:
    """Return the strongest control of every property."""
    suffixes = [PurePosixPath(name).suffix.lower() for name in evidence.names]
    formats = sorted(set(suffixes) & IMAGE_SUFFIXES)
    columns = {
        "brightness": [evidence.brightness],
        "blur": [evidence.sharpness],
        "size": [evidence.heights * evidence.widths],
        "shape": [evidence.heights / evidence.widths],
        "colour": [evidence.is_colour],
        "format": [np.array([s == kind for s in suffixes]) for kind in formats]
        or [np.zeros(len(suffixes))],
    }
    return {name: _strongest(values, evidence) for name, values in columns.items()}


def _strongest(columns: list[np.ndarray], evidence: Evidence) -> Control:
    found = [Control(0.5, 0.0, 0)]
    for values in columns:
        for label in range(len(evidence.class_names)):
            found.append(separation(values, evidence.labels == label, evidence.groups, label))
    return max(found, key=lambda control: control.auc)


def separation(
    values: np.ndarray, member: np.ndarray, groups: np.ndarray, label: int = 1
) -> Control:
    """Return how well `values` `(n,)` tell members of a class from the rest."""
    from scipy.stats import rankdata

    n_in, n_out = int(member.sum()), int((~member).sum())
    if not n_in or not n_out:
        return Control(0.5, 0.0, label)
    ranks = rankdata(values)
    auc = (ranks[member].sum() - n_in * (n_in + 1) / 2) / (n_in * n_out)
    shares = (member - member.mean()) * (ranks - ranks.mean())
    by_group = np.bincount(np.unique(groups, return_inverse=True)[1], weights=shares)
    spread = float(np.sqrt((by_group**2).sum()))
    z = abs(float(by_group.sum())) / spread if spread else 0.0
    return Control(float(max(auc, 1 - auc)), z, label)
