"""What each of the paper's settings changes, measured on freshly drawn scenes with the embedded models.

`pseudo-ris lab preset-effects --scenes 100 --seed S` takes the demo's settings with the choices of
configs/default.yaml, and switches each point in which configs/paper.yaml differs to the paper's value, alone; a last row
switches all. It prints tables in Markdown and, as its last line, one JSON object.
"""

from __future__ import annotations

import json
import math
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import cache, partial
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from pseudo_ris.lab.evaluate import PAPER_THRESHOLD, RECOMMENDED_THRESHOLD
from pseudo_ris.lab.preset_measures import MOSAIC_SIDE, Figures, Settings, Workbench, draw_mosaic
from pseudo_ris.stages.settings import STAGES, parse_config
from pseudo_ris.world.judge import share, total
from pseudo_ris.world.scenes import Scene, draw_scene

OURS, PAPER = "default", "paper"
# A difference within so many standard errors is not told from none.
NOTABLE = 2.0

NO_PARSER = "spaCy's parser needs its model en_core_web_lg; all rows find nouns by rules"
NO_GPU = "makes a difference on a GPU only; all rows are computed in fp32"
NOT_MEASURED = {
    "scoring.noun_finder": NO_PARSER,
    "scoring.noun_rule": NO_PARSER,
    "coca.precision": NO_GPU,
    "clip.precision": NO_GPU,
}
FIGURES: dict[str, Callable[[Figures], float]] = {
    "mask_recall_75": lambda f: f.masks.recall,
    "mask_mean_iou": lambda f: f.masks.mean_iou,
    "mask_precision": lambda f: f.masks.precision,
    "masks_twice": lambda f: share(f.twice, f.masks.masks),
    "true_candidates": lambda f: f.candidates.true_share,
    "unique_candidates": lambda f: f.candidates.unique_share,
    "distinctive_candidates": lambda f: f.candidates.distinctive_share,
    "distinctive_kept": lambda f: f.papers.kept.distinctive_share,
    "objects_kept": lambda f: f.papers.kept.covered_share,
    "masks_training": lambda f: share(f.papers.training, f.papers.masks),
    "distinctive_drawn": lambda f: share(f.papers.drawn_distinctive, f.papers.training),
    "distinctive_kept_recommended": lambda f: f.recommended.kept.distinctive_share,
    "objects_kept_recommended": lambda f: f.recommended.kept.covered_share,
    "masks_training_recommended": lambda f: share(f.recommended.training, f.recommended.masks),
    "distinctive_drawn_recommended": lambda f: share(f.recommended.drawn_distinctive, f.recommended.training),
}
MASK_COLUMNS = {
    "mask_recall_75": "recall at IoU .75",
    "mask_mean_iou": "mean IoU",
    "mask_precision": "precision",
    "masks_twice": "shown twice",
}
CANDIDATE_COLUMNS = {
    "true_candidates": "candidates: true",
    "unique_candidates": "unique",
    "distinctive_candidates": "distinctive",
}
FILTER_COLUMNS = {
    "distinctive_kept": f"DoC > {PAPER_THRESHOLD:.1f}: distinctive",
    "objects_kept": "objects",
    "distinctive_drawn": "drawn",
    "distinctive_kept_recommended": f"DoC > {RECOMMENDED_THRESHOLD:.1f}: distinctive",
    "objects_kept_recommended": "objects",
    "distinctive_drawn_recommended": "drawn",
}
LEGEND = (
    "In brackets: the difference to our settings; ≈ where it is within two standard errors (jackknife over images), = where "
    "there is none. Shown twice: masks whose IoU with another mask is 0.5 or more. Under DoC: of the expressions that pass, "
    "those that fit their object and no other; objects that keep one; drawn: the expected share of distinctive ones when "
    "training draws one expression of each mask that has any, all equally likely. The embedded CoCa and CLIP were trained on "
    "crops with our fill and box, which favours ours in the rows that switch these."
)


@dataclass(frozen=True)
class Section:
    """One table: the rows that are measured on one kind of image and masks.

    switches: for each row but the first and the last, the settings that are switched to the paper's: one alone or, where one
    changes what another does, together. draw: split, seed, index -> scene; there is one for each `scenes_per_image` of the
    scenes asked for. find_masks: run stage 1; otherwise stage 2 is given the true masks.
    """

    title: str
    switches: tuple[tuple[str, ...], ...]
    columns: dict[str, str]
    find_masks: bool = False
    draw: Callable[[str, int, int], Scene] = draw_scene
    scenes_per_image: int = 1

    @property
    def rows(self) -> tuple[tuple[str, ...], ...]:
        """The settings that each row switches: none, the section's, all."""
        return ((), *self.switches, measured_differences())


# The mosaics come first: they take longest, and workers should end together.
SECTIONS = {
    "mosaics": Section(
        "Stage 2 on the true masks of mosaics of nine scenes",
        (("decoding.max_distractors", "decoding.distractor_overflow"),),
        CANDIDATE_COLUMNS | FILTER_COLUMNS,
        draw=draw_mosaic,
        scenes_per_image=MOSAIC_SIDE**2,
    ),
    "stage1": Section(
        "Stage 1, and stage 2 on its masks",
        (
            ("cutler.channel_order",),
            ("sam.channel_order",),
            ("cutler.channel_order", "sam.channel_order"),
            ("sam.min_mask_region_area",),
            ("matching.rule",),
            ("matching.ties",),
            ("matching.deduplicate",),
            ("matching.min_iou",),
            ("matching.min_iou", "matching.no_overlap"),
            ("matching.rule", "matching.deduplicate", "matching.min_iou"),
            ("matching.rule", "matching.deduplicate", "matching.min_iou", "matching.ties", "matching.no_overlap"),
        ),
        MASK_COLUMNS | FILTER_COLUMNS,
        find_masks=True,
    ),
    "stage2": Section(
        "Stage 2 on true masks",
        (
            ("crops.antialias",),
            ("crops.fill",),
            ("crops.box",),
            ("crops.fill", "crops.box"),
            ("decoding.beam_length",),
            ("scoring.score_floor",),
            ("scoring.fallback",),
        ),
        CANDIDATE_COLUMNS | FILTER_COLUMNS,
    ),
}


@cache
def preset_differences() -> dict[str, tuple[Any, Any]]:
    """Every setting whose value differs: "part.name" -> (value in OURS, value in PAPER). Raises UserError."""
    ours, paper = _flat(OURS), _flat(PAPER)
    return {setting: (ours[setting], paper[setting]) for setting in ours if ours[setting] != paper[setting]}


def _flat(preset: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for stage in STAGES:
        config = parse_config(stage, ["--config", preset], "")
        for part in fields(config):
            value = getattr(config, part.name)
            own = asdict(value) if is_dataclass(value) else {}
            flat |= {f"{part.name}.{name}": each for name, each in own.items()} or {part.name: value}
    return flat


def measured_differences() -> tuple[str, ...]:
    """Names of those that the demo models can show."""
    return tuple(setting for setting in preset_differences() if setting not in NOT_MEASURED)


def settings_with(papers: Iterable[str]) -> Settings:
    """The demo's settings with configs/default.yaml's value at each measured point, but the paper's for those in `papers`."""
    chosen = set(papers)
    differences = preset_differences()
    return Settings().switched({setting: differences[setting][setting in chosen] for setting in measured_differences()})


def measure_image(split: str, seed: int, section: str, index: int) -> tuple[Figures, ...]:
    """Figures of each of a section's rows on one image."""
    chosen = SECTIONS[section]
    bench = Workbench(chosen.draw(split, seed, index), f"{split}_{seed}_{index}")
    return tuple(bench.measure(settings_with(switched), chosen.find_masks) for switched in chosen.rows)


def measure(split: str, seed: int, scenes: int, workers: int) -> dict[str, list[tuple[Figures, ...]]]:
    """For each section its images' figures. Each image runs on one thread, so the result does not depend on `workers`.

    Raises UserError when a preset cannot be read.
    """
    preset_differences()
    images = {name: scenes // section.scenes_per_image for name, section in SECTIONS.items()}
    jobs = [(name, index) for name, count in images.items() for index in range(count)]
    measured: dict[str, list[tuple[Figures, ...]]] = {name: [] for name in SECTIONS}
    results = tqdm(_results(split, seed, jobs, workers), total=len(jobs), desc="images", dynamic_ncols=True)
    for (name, _), figures in zip(jobs, results, strict=True):
        measured[name].append(figures)
    return measured


def _results(split: str, seed: int, jobs: Sequence[tuple[str, int]], workers: int) -> Iterator[tuple[Figures, ...]]:
    work = partial(measure_image, split, seed)
    if workers == 1:
        torch.set_num_threads(1)
        yield from (work(*job) for job in jobs)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        yield from pool.map(work, *zip(*jobs, strict=True))


@dataclass(frozen=True)
class Effect:
    """A row's value of a figure, its difference to the first row's, and the standard error of that difference.

    nan where nothing was there to be counted; the error of one image alone is nan.
    """

    value: float
    difference: float
    error: float

    @property
    def shown_value(self) -> str:
        """For a table: the value, "nan" included."""
        return f"{self.value:.3f}".removeprefix("0")

    @property
    def shown_difference(self) -> str:
        """For a table: the difference, "=" for none, "≈" where it is not told from none."""
        if self.difference == 0:
            return "="
        return "≈" if abs(self.difference) < NOTABLE * self.error else f"{self.difference:+.3f}".replace("0.", ".", 1)


def effect(images: Sequence[tuple[Figures, ...]], row: int, figure: Callable[[Figures], float]) -> Effect:
    """A figure over one or more images, each of which has its rows. The error is the jackknife's (Efron 1982) over images."""
    own, first = ([of_image[place] for of_image in images] for place in (row, 0))
    without_one = [figure(left) - figure(right) for left, right in zip(_leave_one_out(own), _leave_one_out(first), strict=True)]
    error = math.sqrt((len(images) - 1) * np.var(without_one)) if without_one else math.nan
    value = figure(total(own))
    return Effect(value, value - figure(total(first)), error)


def _leave_one_out(figures: Sequence[Figures]) -> list[Figures]:
    """The sum of all others, for each; nothing for one alone."""
    before = [Figures(), *accumulate(figures)]
    after = [Figures(), *accumulate(reversed(figures))]
    return [before[at] + after[len(figures) - 1 - at] for at in range(len(figures))] if len(figures) > 1 else []


def table(measured: dict[str, list[tuple[Figures, ...]]]) -> str:
    """The figures for a person, as Markdown: the settings that differ, then a table for each section that has images."""
    lines = ["| setting | configs/default.yaml | configs/paper.yaml | |", "|---|---|---|---|"]
    for setting, (ours, paper) in preset_differences().items():
        reason = f"not measured: {NOT_MEASURED[setting]}" if setting in NOT_MEASURED else ""
        lines.append(f"| `{setting}` | {_shown(ours)} | {_shown(paper)} | {reason} |")
    for name, images in measured.items():
        if not images:
            continue
        section = SECTIONS[name]
        masks = total(of_image[0].masks for of_image in images)
        lines += ["", f"{section.title} ({len(images)} images, {masks.objects} objects)", ""]
        lines += [f"| | {' | '.join(section.columns.values())} |", "|---" * (len(section.columns) + 1) + "|"]
        for row, switched in enumerate(section.rows):
            cells = [effect(images, row, FIGURES[column]) for column in section.columns]
            shown = [f"{cell.shown_value} ({cell.shown_difference})" if row else cell.shown_value for cell in cells]
            lines.append(f"| {_row_name(switched)} | {' | '.join(shown)} |")
    return "\n".join([*lines, "", LEGEND])


def _row_name(switched: tuple[str, ...]) -> str:
    if not switched:
        return "ours"
    if switched == measured_differences():
        return "all of the paper's"
    return ", ".join(f"`{setting}` {_shown(preset_differences()[setting][1])}" for setting in switched)


def _shown(value: Any) -> str:
    """As in YAML."""
    return json.dumps(value).strip('"')


def summary(measured: dict[str, list[tuple[Figures, ...]]]) -> dict[str, list[dict[str, Any]]]:
    """For each section its rows: the settings switched, and every figure as [value, difference, error]; null for nan."""
    return {
        name: [
            {"switched": list(switched)}
            | {
                figure: [None if math.isnan(part) else round(part, 4) for part in asdict(effect(images, row, of)).values()]
                for figure, of in FIGURES.items()
            }
            for row, switched in enumerate(SECTIONS[name].rows)
        ]
        for name, images in measured.items()
        if images
    }
