"""Draws the charts of the report as SVG: histograms, curves and bars, coloured by the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

import numpy as np

from pseudo_ris.report.statistics import Curve, Histogram, nice_step

WIDTH, HEIGHT = 360, 200
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 34, 38
WIDEST_BAR = 26
BAR_ROW, BAR_LABEL, BAR_NUMBER = 17, 92, 48
SERIES = ("a", "b")
"""CSS classes of the first and second series of a chart."""


@dataclass(frozen=True)
class _Scale:
    """Maps values low..high to pixels start..end."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / ((self.high - self.low) or 1.0) * (self.end - self.start)


def histogram_chart(histogram: Histogram, x_label: str, y_label: str, mark: float | None = None, percent: bool = False) -> str:
    """Draws a histogram as stacked bars. mark: value of a vertical line. percent: values are shares, shown in percent."""
    edges, total = histogram.edges, sum(histogram.counts.values())
    across = _Scale(edges[0], edges[-1], LEFT, WIDTH - RIGHT)
    up = _Scale(0, _ticks(0, max(1, int(np.max(total))), 4)[-1], HEIGHT - BOTTOM, TOP)
    factor = 100 if percent else 1
    ticks = _histogram_ticks(histogram)
    parts = [*_grid(up, _ticks(0, up.high, 4)), *_x_axis(across, ticks, x_label, factor), _y_title(y_label)]
    for bar, (left, right) in enumerate(pairwise(edges)):
        middle, half = across((left + right) / 2), min(WIDEST_BAR, across(right) - across(left) - 1) / 2
        base = 0
        for style, (name, counts) in zip(SERIES, histogram.counts.items(), strict=False):
            if count := int(counts[bar]):
                hint = f"{histogram.range_of(bar, factor)}: {count:,} {name}"
                parts.append(_bar(middle - half, middle + half, up(base), up(base + count), style, hint))
                base += count
    if mark is not None and edges[0] <= mark <= edges[-1]:
        parts.append(_mark(across(mark), f"{mark:g}"))
    return _svg(parts, f"{y_label} by {x_label}", HEIGHT)


def curve_chart(curve: Curve, x_label: str, mark: float) -> str:
    """Draws shares (0 to 100%) by threshold, one line per series. mark: the current threshold."""
    x = curve.thresholds
    across, up = _Scale(x[0], x[-1], LEFT, WIDTH - RIGHT), _Scale(0, 1, HEIGHT - BOTTOM, TOP)
    parts = [*_grid(up, [0, 0.25, 0.5, 0.75, 1], 100, "%"), *_x_axis(across, _ticks(x[0], x[-1]), x_label), _y_title("share")]
    for style, (name, shares) in zip(SERIES, curve.shares.items(), strict=False):
        points = " ".join(f"{across(t):.1f},{up(share):.1f}" for t, share in zip(x, shares, strict=True))
        parts.append(f'<polyline class="line {style}" points="{points}"><title>{escape(name)}</title></polyline>')
    if x[0] <= mark <= x[-1]:
        parts.append(_mark(across(mark), f"{mark:g}"))
    return _svg(parts, "share kept by " + x_label, HEIGHT)


def bar_chart(counts: Sequence[tuple[str, int]], label: str) -> str:
    """Draws a horizontal bar with its number for each (name, count)."""
    across = _Scale(0, max((count for _, count in counts), default=1), BAR_LABEL, WIDTH - BAR_NUMBER)
    parts = []
    for row, (name, count) in enumerate(counts):
        y = row * BAR_ROW + 13
        shown = name if len(name) <= 14 else name[:13] + "…"
        hint = f"<title>{escape(name)}: {count:,}</title>"
        parts.append(f'<text x="{BAR_LABEL - 6}" y="{y}" text-anchor="end">{escape(shown)}{hint}</text>')
        parts.append(f'<rect class="a" x="{BAR_LABEL}" y="{y - 10}" width="{across(count) - BAR_LABEL:.1f}" height="12"/>')
        parts.append(f'<text x="{across(count) + 5:.1f}" y="{y}">{count:,}</text>')
    return _svg(parts, label, max(1, len(counts)) * BAR_ROW + 4)


def legend(names: Mapping[str, str]) -> str:
    """Returns the HTML of a legend. names: CSS class of a series -> its name."""
    keys = (f'<span class="key {style}"></span>{escape(name)}' for style, name in names.items())
    return f'<p class="legend">{" ".join(keys)}</p>'


def _ticks(low: float, high: float, about: int = 7) -> list[float]:
    """Returns round values that cover low..high."""
    step = nice_step((high - low) / about)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 10) for number in range(first, max(last, first + 1) + 1)]


def _histogram_ticks(histogram: Histogram) -> list[float]:
    ticks = _ticks(histogram.edges[0], histogram.edges[-1])
    return [tick for tick in ticks if tick == int(tick)] if histogram.whole else ticks


def _grid(up: _Scale, values: Sequence[float], factor: float = 1, unit: str = "") -> list[str]:
    parts = []
    for value in values:
        y = f"{up(value):.1f}"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        shown = _short(value * factor) + unit
        parts.append(f'<text x="{LEFT - 6}" y="{y}" dy="4" text-anchor="end">{shown}</text>')
    return parts


def _x_axis(across: _Scale, values: Sequence[float], label: str, factor: float = 1) -> list[str]:
    parts = [f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM}"/>']
    for value in values:
        if across.low - 1e-9 <= value <= across.high + 1e-9:
            place = f'x="{across(value):.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle"'
            parts.append(f"<text {place}>{_short(value * factor)}</text>")
    place = f'x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle"'
    return [*parts, f'<text class="title" {place}>{escape(label)}</text>']


def _y_title(label: str) -> str:
    return f'<text class="title" x="2" y="11">{escape(label)}</text>'


def _bar(left: float, right: float, bottom: float, top: float, style: str, hint: str) -> str:
    size = f'width="{max(right - left, 0.5):.1f}" height="{bottom - top:.1f}"'
    return f'<rect class="{style}" x="{left:.1f}" y="{top:.1f}" {size}><title>{escape(hint)}</title></rect>'


def _mark(x: float, text: str) -> str:
    line = f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 6}" y2="{HEIGHT - BOTTOM}"/>'
    return f'{line}<text class="mark" x="{max(x, LEFT):.1f}" y="{TOP - 10}" text-anchor="middle">threshold {text}</text>'


def _short(value: float) -> str:
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _svg(parts: Sequence[str], label: str, height: float) -> str:
    head = f'<svg class="chart" viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(label)}">'
    return head + "".join(parts) + "</svg>"
