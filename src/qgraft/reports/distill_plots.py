"""Figures of the distillation study as SVG text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qgraft.reports.plots import BLUE, GREEN, GREY, HYBRIDS, ORANGE, _drawing, _grid, _short, _svg

Row = Mapping[str, Any]
NOBODY, UNIFORM = "none", "uniform"


def teacher_colours(rows: Sequence[Row]) -> dict[str, str]:
    """Return the colour of every teacher: grey without one, green for the one that knows nothing.

    The first real teacher is orange.
    """
    real = [t for t in dict.fromkeys(row["teacher"] for row in rows) if t not in (NOBODY, UNIFORM)]
    palette = [ORANGE, BLUE, *(c for c in HYBRIDS if c not in (ORANGE, BLUE, GREEN))]
    colours = {name: palette[k % len(palette)] for k, name in enumerate(real)}
    return {NOBODY: GREY, **colours, UNIFORM: GREEN}


def setting(row: Row) -> str:
    """Return the setting of a row in words."""
    return f"{row['dataset']} {row['classes']}, {row['n_qubits']} qubits"


def accuracy_dots(rows: Sequence[Row]) -> str:
    """Draw mean accuracies, a panel per setting and a line per student, coloured by teacher.

    Small dots are the seeds, diamonds published values.
    """
    settings = list(dict.fromkeys(map(setting, rows)))
    colours = teacher_colours(rows)
    n_lines = max(
        len({row["student"] for row in rows if setting(row) == name}) for name in settings
    )
    with _drawing():
        figure, axes = _grid(len(settings), 1, (10.0, 0.9 + 0.42 * n_lines))
        for panel, name in zip(axes[:, 0], settings, strict=True):
            here = [row for row in rows if setting(row) == name]
            students = list(dict.fromkeys(row["student"] for row in here))
            teachers = [t for t in colours if any(row["teacher"] == t for row in here)]
            step = 0.7 / max(1, len(teachers))
            for row in here:
                y = -students.index(row["student"]) - step * teachers.index(row["teacher"])
                _dot(panel, y, row, colours[row["teacher"]])
            panel.set_yticks([-k - 0.25 for k in range(len(students))], map(_short, students))
            panel.set_ylim(-len(students) + 0.15, 0.35)
            panel.set_title(name)
            panel.set_xlabel("accuracy, %")
            panel.grid(visible=False, axis="y")
            panel.tick_params(axis="y", length=0)
        for teacher, colour in colours.items():
            if any(row["teacher"] == teacher for row in rows):
                axes[0, 0].plot([], [], "o", color=colour, label=_said(teacher))
        if any(row["published"] is not None for row in rows):
            style = {"color": "none", "markeredgecolor": "black"}
            axes[0, 0].plot([], [], "D", label="published", **style)
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
        return _svg(figure)


def _said(teacher: str) -> str:
    return {NOBODY: "no teacher", UNIFORM: "uniform teacher"}.get(teacher, _short(teacher))


def _dot(panel: Any, y: float, row: Row, colour: str) -> None:
    values = [100 * value for value in row["accuracies"]]
    panel.plot(values, [y] * len(values), "o", color=colour, markersize=2.5, alpha=0.45)
    mean = 100 * row["accuracy_mean"]
    spread = 100 * row["accuracy_std"] if len(values) > 1 else 0.0
    ends = [[min(spread, mean)], [min(spread, 100 - mean)]]  # accuracies end at 0 and 100
    panel.errorbar(mean, y, xerr=ends, fmt="o", color=colour, capsize=2, markersize=6)
    if row["published"] is not None:
        panel.plot(100 * row["published"], y, "D", color="none", markeredgecolor="black")


def gain_intervals(rows: Sequence[Row]) -> str:
    """Draw the mean gain of every taught student with its interval over seeds."""
    taught = [row for row in rows if row["gain_mean"] is not None]
    if not taught:
        return ""
    colours = teacher_colours(rows)
    names = [f"{setting(r)}: {r['student']}, {_said(r['teacher'])}" for r in taught]
    with _drawing():
        figure, axes = _grid(1, 1, (10.0, 1.0 + 0.27 * len(taught)))
        panel = axes[0, 0]
        panel.axvline(0, color="#9aa1ab", linewidth=1)
        for k, row in enumerate(taught):
            mean, colour = 100 * row["gain_mean"], colours[row["teacher"]]
            if row["gain_low"] is not None:
                ends = [100 * row["gain_low"], 100 * row["gain_high"]]
                panel.plot(ends, [-k, -k], color=colour, linewidth=2, alpha=0.6)
            panel.plot(mean, -k, "s" if row["is_control"] else "o", color=colour)
        panel.set_yticks([-k for k in range(len(taught))], [_short(name, 64) for name in names])
        panel.set_ylim(0.4 - len(taught), 0.6)
        panel.set_xlabel("gain, points of accuracy (squares: controls; lines: 95 % interval)")
        panel.grid(visible=False, axis="y")
        panel.tick_params(axis="y", length=0)
        return _svg(figure)


def validation_lines(curves: Mapping[str, Sequence[float]]) -> str:
    """Draw the mean validation accuracy per epoch, a panel per setting of the first student."""
    from matplotlib.ticker import MaxNLocator

    split = {tuple(name.split("/", 2)): values for name, values in curves.items()}
    first: dict[str, str] = {}
    for task, which, _ in split:
        first.setdefault(task, which)
    chosen = {key: values for key, values in split.items() if first[key[0]] == key[1]}
    if not chosen or max(map(len, chosen.values())) < 2:
        return ""
    colours = teacher_colours([{"teacher": teacher} for _, _, teacher in chosen])
    with _drawing():
        figure, axes = _grid(1, len(first), (4.0, 2.8), sharey=True)
        for panel, (task, which) in zip(axes[0], first.items(), strict=True):
            for (name, _, teacher), values in chosen.items():
                if name == task:
                    y = [100 * value for value in values]
                    label, colour = _said(teacher), colours[teacher]
                    panel.plot(range(1, len(y) + 1), y, color=colour, label=label)
            panel.set_title(f"{task}, {_short(which)}")
            panel.set_xlabel("epoch")
            panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes[0, 0].set_ylabel("validation accuracy, %")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
        return _svg(figure)
