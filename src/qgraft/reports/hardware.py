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
        "| condition | depolarising p | shots | F1 % | accuracy % | AUC | log loss | same class % "
        "|",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for point in result["points"]:
        strength = "-" if point["strength"] is None else f"{point['strength']:g}"
        shots = "exact" if point["shots"] is None else f"{point['shots']:,}"
        spread = f" ± {100 * point['f1_std']:.2f}" if point["repeats"] > 1 else ""
        lines.append(
            f"| {point['condition']} | {strength} | {shots} | {100 * point['f1']:.2f}{spread} | "
            f"{100 * point['accuracy']:.2f} | {point['auc']:.3f} | {point['log_loss']:.3f} | "
            f"{100 * point['same_class']:.1f} |"
        )
    return "\n".join(lines) + "\n"


def hardware_figure(result: Mapping[str, Any]) -> str:
    """Return three panels as SVG: F1 against shots, F1 and log loss against the noise."""
    points: Sequence[Mapping[str, Any]] = result["points"]
    ideal = next(point for point in points if point["condition"] == "ideal")
    with _drawing():
        figure, axes = _grid(1, 3, (3.9, 3.4))
        by_shots, f1_by_noise, loss_by_noise = axes[0]
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
        _label_points(by_shots, [point["shots"] for point in found])
        for k, condition in enumerate(NOISY):
            found = [point for point in points if point["condition"] == condition]
            strengths = [point["strength"] for point in found]
            look = {
                "color": HYBRIDS[k % len(HYBRIDS)],
                "marker": MARKERS[k],
                "linestyle": "--" if k >= len(HYBRIDS) else "-",
                "label": condition,
            }
            f1_by_noise.plot(strengths, [100 * point["f1"] for point in found], **look)
            loss_by_noise.plot(strengths, [point["log_loss"] for point in found], **look)
        where = "depolarising probability after each gate"
        f1_by_noise.set(title="Score under noise", xlabel=where, ylabel="F1 %", xscale="log")
        loss_by_noise.set(title="Loss under noise", xlabel=where, ylabel="log loss", xscale="log")
        for panel in (f1_by_noise, loss_by_noise):
            _label_points(panel, [p["strength"] for p in points if p["condition"] == NOISY[0]])
        handles, labels = loss_by_noise.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3)
        for panel in (by_shots, f1_by_noise):
            panel.axhline(100 * ideal["f1"], color="#5f6670", linewidth=1, linestyle=":")
        loss_by_noise.axhline(ideal["log_loss"], color="#5f6670", linewidth=1, linestyle=":")
        return _svg(figure)


def _label_points(panel: Any, values: Sequence[float]) -> None:
    """Put a label at every value of a logarithmic axis; powers of ten would be formulas."""
    panel.set_xticks(values, [f"{value:g}" for value in values], fontsize=7)
    panel.minorticks_off()


def write_hardware(folder: Path, result: Mapping[str, Any]) -> tuple[Path, Path]:
    """Write the table and the figure of a noise study beside its result."""
    table, figure = folder / "hardware.md", folder / "hardware.svg"
    atomic_write(table, hardware_table(result))
    atomic_write(figure, hardware_figure(result))
    return table, figure
