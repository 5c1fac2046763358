"""The plot of `scaling.py`: images a second by workers."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image
from projection import Point
from stage_runs import StageRun
from waiting_runs import WaitingRun

COLOURS = ("tab:blue", "tab:orange", "tab:green")
COLOURS_OF_FILE = 256
MARKERS = {"local": "o", "ray": "s"}


def plot(path: Path, points: Sequence[Point], waiting: Sequence[WaitingRun], stages: dict[str, list[StageRun]]) -> None:
    """Writes a PNG. points: projected, of one stage. stages: runs of 1 and 2 workers by stage."""
    figure = Figure(figsize=(8, 5.6), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    for cost, colour in zip(sorted({point.cost for point in points}), COLOURS, strict=True):
        runs = [point.run for point in points if point.cost == cost]
        sizes = [run.workers for run in runs]
        axes.plot(sizes, [size / cost for size in sizes], color=colour, linestyle=":", linewidth=1)
        axes.plot(sizes, [run.steady_rate for run in runs], color=colour, label=f"{cost:g} s an image, projected cluster")
        axes.plot(sizes, [run.images_per_second for run in runs], color=colour, linestyle="--", linewidth=1)
    for engine in dict.fromkeys(run.engine for run in waiting):
        measured = [run for run in waiting if run.engine == engine]
        axes.plot(
            [run.workers for run in measured],
            [run.rate for run in measured],
            MARKERS[engine],
            color="black",
            fillstyle="none",
            markersize=9 if engine == "ray" else 6,
            label=f"a wait of {measured[0].wait:g} s, {engine}, measured",
        )
    for (stage, runs), marker in zip(stages.items(), "^v", strict=True):
        rates = [run.rate for run in runs]
        axes.plot([1, 2], rates, marker, color="tab:red", fillstyle="none", label=f"{stage} of scenes, CPU, measured")
    axes.plot([], [], color="grey", linestyle=":", label="ideal")
    axes.plot([], [], color="grey", linestyle="--", label="projected, with start and end")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks([2**power for power in range(11)], [f"{2**power:,}" for power in range(11)])
    axes.set_title(
        f"Measured on one machine, projected to clusters ({points[0].run.images:,} images, {points[0].stage})", fontsize=10
    )
    axes.set_xlabel("workers")
    axes.set_ylabel("images a second")
    axes.grid(alpha=0.3)
    figure.legend(fontsize=8, loc="outside lower center", ncols=3)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = io.BytesIO()
    figure.savefig(drawn)
    Image.open(drawn).convert("RGB").quantize(COLOURS_OF_FILE).save(path, optimize=True)
