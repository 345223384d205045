"""Figures and tables of a head on its way to hardware, and of a circuit under inspection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qgraft.reports.plots import HYBRIDS, MARKERS, _drawing, _grid, _svg
from qgraft.training.checkpoint import atomic_write

NOISY = (
    "noise",
    "noise, extrapolated",
    "noise and shots",
    "noise and shots, extrapolated",
    "noise, trained under it",
    "noise, trained as long without",
)


def hardware_table(result: Mapping[str, Any]) -> str:
    """Return all points of a noise study as a Markdown table, F1 and accuracy in percent."""
    lines = [
        "| condition | depolarising p | shots | F1 % | accuracy % | AUC |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for point in result["points"]:
        strength = "–" if point["strength"] is None else f"{point['strength']:g}"
        shots = "exact" if point["shots"] is None else f"{point['shots']:,}"
        spread = f" ± {100 * point['f1_std']:.2f}" if point["repeats"] > 1 else ""
        lines.append(
            f"| {point['condition']} | {strength} | {shots} | {100 * point['f1']:.2f}{spread} | "
            f"{100 * point['accuracy']:.2f} | {point['auc']:.3f} |"
        )
    return "\n".join(lines) + "\n"


def hardware_figure(result: Mapping[str, Any]) -> str:
    """Return two panels as SVG: F1 against shots, and against the depolarising strength."""
    points: Sequence[Mapping[str, Any]] = result["points"]
    ideal = next(point for point in points if point["condition"] == "ideal")
    with _drawing():
        figure, axes = _grid(1, 2, (4.6, 3.4))
        by_shots, by_noise = axes[0]
        found = [point for point in points if point["condition"] == "shots"]
        by_shots.errorbar(
            [point["shots"] for point in found],
            [100 * point["f1"] for point in found],
            [100 * point["f1_std"] for point in found],
            color=HYBRIDS[0],
            marker="o",
            capsize=2,
        )
        by_shots.set(title="Finite shots", xlabel="shots", ylabel="F1 %", xscale="log")
        for k, condition in enumerate(NOISY):
            found = [point for point in points if point["condition"] == condition]
            by_noise.plot(
                [point["strength"] for point in found],
                [100 * point["f1"] for point in found],
                color=HYBRIDS[k % len(HYBRIDS)],
                marker=MARKERS[k],
                linestyle="--" if k >= len(HYBRIDS) else "-",
                label=condition,
            )
        by_noise.set(title="Depolarising noise", xlabel="probability after each gate")
        by_noise.set_xscale("log")
        by_noise.legend(fontsize=7)
        for panel in (by_shots, by_noise):
            panel.axhline(100 * ideal["f1"], color="#5f6670", linewidth=1, linestyle=":")
        return _svg(figure)


def write_hardware(folder: Path, result: Mapping[str, Any]) -> tuple[Path, Path]:
    """Write the table and the figure of a noise study beside its result."""
    table, figure = folder / "hardware.md", folder / "hardware.svg"
    atomic_write(table, hardware_table(result))
    atomic_write(figure, hardware_figure(result))
    return table, figure
