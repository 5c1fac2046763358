"""Runs a study on freshly drawn scenes and gives every measure a 95% interval (`pseudo-ris lab ablate`)."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from functools import partial
from itertools import chain
from math import nan

import numpy as np
import pandas as pd

from pseudo_ris.distinctiveness.places import PLACE
from pseudo_ris.lab.output import DIGITS, format_table
from pseudo_ris.lab.studies import STUDIES, Point
from pseudo_ris.lab.workbench import ONE_THREAD, Settings, Workbench
from pseudo_ris.pairs.assembly import selected_candidates
from pseudo_ris.report.statistics import distinct, self_bleu, words
from pseudo_ris.world.judge import judge_captions, owners_of
from pseudo_ris.world.scene_set import map_in_processes
from pseudo_ris.world.scenes import Scene

COUNTS = (
    *("captions", "true", "unique", "distinctive", "objects", "covered", "told_apart"),
    *("words", "worded", "vocabulary", "varied", "distinct_2", "self_bleu"),
)
"""What is counted in a scene. worded: masks with a sentence; vocabulary: different words, added over these masks. varied: masks
with two or more sentences, over which distinct_2 and self_bleu are added."""
MEASURES = {
    "true": ("true", "captions"),
    "unique": ("unique", "captions"),
    "distinctive": ("distinctive", "captions"),
    "objects": ("covered", "objects"),
    "told_apart": ("told_apart", "objects"),
    "words": ("words", "captions"),
    "vocabulary": ("vocabulary", "worded"),
    "distinct_2": ("distinct_2", "varied"),
    "self_bleu": ("self_bleu", "varied"),
}
"""Each measure is a ratio of two counts, both added over the scenes."""
LABELS = {
    "true": "true",
    "unique": "unique",
    "distinctive": "distinctive",
    "objects": "objects with an expression",
    "told_apart": "objects told apart",
    "words": "words per expression",
    "vocabulary": "different words per mask",
    "distinct_2": "distinct-2 within a mask",
    "self_bleu": "self-BLEU within a mask",
}
RESAMPLES = 2000
INTERVAL = (2.5, 97.5)
"""Percentiles of the 95% interval."""


@dataclass(frozen=True)
class Estimate:
    """A measure of a point: its value, its 95% interval, and the same of its difference from the study's first point."""

    value: float
    low: float
    high: float
    difference: float
    difference_low: float
    difference_high: float


def run_study(name: str, split: str, seed: int, scenes: int, workers: int) -> list[dict[str, Estimate]]:
    """Returns the measures of each point of a study. Raises UserError when the embedded models cannot be loaded."""
    Settings().load_models()
    work = partial(count_scene, name, split, seed)
    counts = np.stack(list(map_in_processes(work, range(scenes), workers, name, ONE_THREAD)))
    return estimates(counts, seed)


def count_scene(name: str, split: str, seed: int, index: int) -> np.ndarray:
    """Counts scene `index` for each point of a study: float64 [points, COUNTS]. Points share what their settings share."""
    study = STUDIES[name]()
    scenes: dict[int, tuple[Workbench, np.ndarray, list[int | None]]] = {}
    rows = []
    for point in study.points:
        if point.look_alikes not in scenes:
            bench = Workbench.of_scene(point.draw(split, seed, index), split, seed, index)
            masks = bench.found_masks(Settings().stage1) if study.masks == "found" else bench.scene.masks
            scenes[point.look_alikes] = bench, masks, owners_of(bench.scene, masks)
        bench, masks, owners = scenes[point.look_alikes]
        rows.append(count_expressions(bench.scene, owners, expressions(bench, masks, point), study.measures))
    return np.stack(rows)


def expressions(bench: Workbench, masks: np.ndarray, point: Point) -> list[list[str]]:
    """Returns the expressions that a point keeps for each mask, bool [M, H, W]."""
    settings = Settings().switched(point.switched)
    selected = selected_candidates(bench.captions(masks, settings.stage2), point.rules)
    return [[record.text for record in own if point.strategy == "all" or record.strategy == PLACE] for own in selected]


def count_expressions(
    scene: Scene, owners: Sequence[int | None], texts: Sequence[Sequence[str]], measures: Set[str]
) -> np.ndarray:
    """Judges the expressions of each mask and counts their words: float64 [COUNTS]; NaN for self-BLEU unless it is measured.

    owners: see `world.judge.owners_of`.
    """
    judged = judge_captions(scene, owners, texts)
    tokens = [[words(text) for text in own] for own in texts]
    varied = [own for own in tokens if len(own) > 1]
    counted = {
        "words": sum(map(len, chain.from_iterable(tokens))),
        "worded": sum(map(bool, tokens)),
        "vocabulary": sum(len(set(chain.from_iterable(own))) for own in tokens),
        "varied": len(varied),
        "distinct_2": sum(distinct(own, 2) or 0.0 for own in varied),
        "self_bleu": sum(self_bleu(own) or 0.0 for own in varied) if "self_bleu" in measures else nan,
    }
    return np.array([counted[name] if name in counted else getattr(judged, name) for name in COUNTS], np.float64)


def estimates(counts: np.ndarray, seed: int) -> list[dict[str, Estimate]]:
    """Returns each point's measures with bootstrap intervals over scenes. counts: float64 [scenes, points, COUNTS].

    All points share the resamples, so a difference between two points has the interval of paired scenes.
    """
    scenes = len(counts)
    draws = np.random.default_rng(seed).multinomial(scenes, np.full(scenes, 1 / scenes), RESAMPLES)
    sums = np.concatenate([counts.sum(axis=0)[None], np.einsum("rs,spc->rpc", draws, counts)])
    result: list[dict[str, Estimate]] = [{} for _ in range(counts.shape[1])]
    for measure, (part, whole) in MEASURES.items():
        with np.errstate(invalid="ignore"):  # NaN where there is nothing to divide by
            ratio = sums[..., COUNTS.index(part)] / sums[..., COUNTS.index(whole)]
        difference = ratio - ratio[:, :1]
        low, high = _interval(ratio[1:])
        difference_low, difference_high = _interval(difference[1:])
        for index, of_point in enumerate(result):
            values = (ratio[0], low, high, difference[0], difference_low, difference_high)
            of_point[measure] = Estimate(*(float(value[index]) for value in values))
    return result


def _interval(resampled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ends of the interval over the first axis; NaN resamples, which drew no expression, are left out."""
    empty = np.isnan(resampled).all(axis=0)
    low, high = np.nanpercentile(np.where(empty, 0.0, resampled), INTERVAL, axis=0)
    return np.where(empty, np.nan, low), np.where(empty, np.nan, high)


def table(name: str, measured: Sequence[dict[str, Estimate]]) -> str:
    """Returns a study's measures as a Markdown table; in brackets the 95% interval."""
    study = STUDIES[name]()
    rows = []
    for point, of_point in zip(study.points, measured, strict=True):
        cells = [_cell(of_point[column]) for column in study.columns]
        rows.append((point.series, "" if point.x is None else f"{point.x:g}", *cells))
    return format_table((study.title, "x", *(LABELS[column] for column in study.columns)), rows)


def _cell(estimate: Estimate) -> str:
    if np.isnan(estimate.value):
        return "-"
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def csv_text(name: str, measured: Sequence[dict[str, Estimate]]) -> str:
    """Returns a study as CSV: one row per point and measure."""
    study = STUDIES[name]()
    rows = [
        {"study": name, "series": point.series, "x": point.x, "measure": measure} | vars(estimate)
        for point, of_point in zip(study.points, measured, strict=True)
        for measure, estimate in of_point.items()
        if measure in study.measures
    ]
    return pd.DataFrame(rows).to_csv(index=False, float_format=f"%.{DIGITS}f")
