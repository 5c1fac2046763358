"""Draws a study as a figure: every measure with its 95% interval."""

from __future__ import annotations

import io
from collections.abc import Sequence
from math import isnan
from typing import TYPE_CHECKING

from pseudo_ris.errors import UserError
from pseudo_ris.lab.ablate import LABELS, Estimate
from pseudo_ris.lab.studies import STUDIES, Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INCHES, DOTS_PER_INCH = 4.6, 120
Measured = Sequence[tuple[Point, dict[str, Estimate]]]


def check_matplotlib() -> None:
    """Raises UserError when matplotlib is missing, before anything is measured."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        raise UserError("figures need matplotlib; install the extra `lab`, or omit --out") from None


def draw_figure(name: str, measured: Sequence[dict[str, Estimate]]) -> bytes:
    """Draws the panels of a study side by side; returns a PNG file."""
    from matplotlib.figure import Figure

    study = STUDIES[name]()
    both = list(zip(study.points, measured, strict=True))
    rows = study.panels[0][1] == "series"
    height = 0.32 * len(both) + 1 if rows else INCHES * 0.85
    figure = Figure((INCHES * len(study.panels), height), layout="constrained")
    axes = figure.subplots(1, len(study.panels), squeeze=False, sharey=rows)[0]
    for panel, (across, up) in zip(axes, study.panels, strict=True):
        if up == "series":
            _draw_rows(panel, both, across)
        else:
            _draw_curves(panel, both, across, up, study.x_label)
    if not rows:
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8)
    figure.suptitle(study.title)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=DOTS_PER_INCH)
    return drawn.getvalue()


def _draw_rows(panel: Axes, measured: Measured, measure: str) -> None:
    """One line per point, from the top; the dotted line is the reference."""
    places = range(len(measured))
    estimates = [of_point[measure] for _, of_point in measured]
    panel.errorbar([each.value for each in estimates], places, xerr=_errors(estimates), fmt="o", capsize=3, color="C0")
    panel.axvline(estimates[0].value, linestyle=":", color="grey", linewidth=1)
    panel.set_yticks(places, [point.series for point, _ in measured])
    panel.set_ylim(len(measured) - 0.5, -0.5)
    panel.set_xlabel(LABELS[measure])
    panel.grid(axis="x", alpha=0.3)


def _draw_curves(panel: Axes, measured: Measured, across: str, up: str, x_label: str) -> None:
    for number, series in enumerate(dict.fromkeys(point.series for point, _ in measured)):
        own = [(point, of_point) for point, of_point in measured if point.series == series]
        own = [(point, of_point) for point, of_point in own if across == "x" or not isnan(of_point[across].value)]
        own = [(point, of_point) for point, of_point in own if not isnan(of_point[up].value)]
        heights = [of_point[up] for _, of_point in own]
        style = {"color": f"C{number}", "label": series, "markersize": 4, "linewidth": 1, "capsize": 2}
        if across != "x":
            widths = [of_point[across] for _, of_point in own]
            x, xerr = [each.value for each in widths], _errors(widths)
        elif own and own[0][0].x is None:  # a reference without x: a line across the panel
            panel.axhline(heights[0].value, color=style["color"], label=series, linestyle=":", linewidth=1)
            continue
        else:
            x, xerr = [point.x for point, _ in own], None
        marker = "*-" if len(own) == 1 else "o-"
        panel.errorbar(x, [each.value for each in heights], yerr=_errors(heights), xerr=xerr, fmt=marker, **style)
    panel.set_xlabel(x_label if across == "x" else LABELS[across])
    panel.set_ylabel(LABELS[up])
    panel.grid(alpha=0.3)


def _errors(estimates: Sequence[Estimate]) -> tuple[list[float], list[float]]:
    return [each.value - each.low for each in estimates], [each.high - each.value for each in estimates]
