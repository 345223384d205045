"""Files that cannot be read, and images unlike the others in size, colour or for being blank."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from qgraft.data.images import decode_image, read_bytes
from qgraft.errors import ImageError
from qgraft.evaluation.audit.evidence import Evidence, Sketch, sketch
from qgraft.evaluation.audit.findings import Finding, counted, finding

COMMON = 0.9  # a size or mode that this share of the images has is taken for the rule
EXTREME = 8.0  # without a common size: sides or aspect this many times off the median
BLANK = 1.0  # grey levels of standard deviation: less is a cap left on or a failed transfer

Progress = Callable[[float, float, str], None]


def read_sketches(
    paths: Mapping[str, Path], progress: Progress
) -> tuple[dict[str, Sketch], dict[str, str]]:
    """Return sketches of the readable files and what is wrong with the others, by name."""
    sketches, faults = {}, {}
    for n, (name, path) in enumerate(paths.items(), 1):
        try:
            sketches[name] = sketch(decode_image(read_bytes(path), str(path)))
        except ImageError as error:
            faults[name] = str(error)
        if n % 50 == 0 or n == len(paths):
            progress(0.7 * n, len(paths), f"{n:,} of {len(paths):,} images read")
    return sketches, faults


def unreadable_files(kind: str, faults: Mapping[str, str]) -> Iterator[Finding]:
    """Report files that had to be left out, the reason of each in the order of their names."""
    if faults:
        first = next(iter(faults.values()))
        yield finding(
            kind,
            "high",
            faults,
            f"{counted(faults, 'file')} left out: repair, replace or remove. First: {first}",
        )


def blank_images(evidence: Evidence) -> Iterator[Finding]:
    """Report images that show nothing at all."""
    blank = np.flatnonzero(evidence.contrast < BLANK)
    if len(blank):
        yield finding(
            "blank_images",
            "medium",
            (evidence.names[i] for i in blank),
            f"{counted(blank, 'image')} of one grey (standard deviation below {BLANK:g}): look "
            "whether the camera or the transfer failed, and remove",
        )


def deviating_sizes(evidence: Evidence) -> Iterator[Finding]:
    """Report images of another size than nearly all, or far from all where sizes vary."""
    sizes = list(zip(evidence.heights.tolist(), evidence.widths.tolist(), strict=True))
    (height, width), count = Counter(sizes).most_common(1)[0]
    if count >= COMMON * len(sizes):
        odd = [i for i, size in enumerate(sizes) if size != (height, width)]
        rule = f"the {width} x {height} pixels of {count} others"
    else:
        height, width = np.median(evidence.heights), np.median(evidence.widths)
        aspect = evidence.heights / evidence.widths
        odd = np.flatnonzero(
            _is_far(evidence.heights, height)
            | _is_far(evidence.widths, width)
            | _is_far(aspect, float(np.median(aspect)))
        ).tolist()
        rule = f"the usual {width:.0f} x {height:.0f} pixels by a factor above {EXTREME:g}"
    if odd:
        yield finding(
            "deviating_sizes",
            "low",
            (f"{evidence.names[i]}: {sizes[i][1]} x {sizes[i][0]}" for i in odd),
            f"{counted(odd, 'image')} unlike {rule}: all are resized to one size, which blurs or "
            "squeezes these; check whether they belong here",
        )


def _is_far(values: np.ndarray, usual: float) -> np.ndarray:
    return (values > EXTREME * usual) | (values * EXTREME < usual)


def deviating_modes(evidence: Evidence) -> Iterator[Finding]:
    """Report colour images among grey ones, or the other way round."""
    share = float(evidence.is_colour.mean())
    rare = evidence.is_colour if share < 0.5 else ~evidence.is_colour
    odd = np.flatnonzero(rare)
    if 0 < len(odd) <= (1 - COMMON) * len(evidence):
        mode, usual = ("in colour", "grey") if share < 0.5 else ("grey", "in colour")
        yield finding(
            "deviating_modes",
            "low",
            (evidence.names[i] for i in odd),
            f"{counted(odd, 'image')} {mode} among {len(evidence) - len(odd):,} {usual}: check "
            "whether another camera took them",
        )
