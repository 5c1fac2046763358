"""Measures what each of the paper's settings changes, on freshly drawn scenes (`pseudo-ris lab preset-effects`)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import cache, partial
from itertools import accumulate
from typing import Any

import numpy as np

from pseudo_ris.distinctiveness.nouns import RuleNounFinder
from pseudo_ris.lab.output import format_table, rounded
from pseudo_ris.lab.workbench import (
    MOSAIC_SIDE,
    ONE_THREAD,
    PAPER_THRESHOLD,
    RECOMMENDED_THRESHOLD,
    Figures,
    Settings,
    Workbench,
    draw_mosaic,
)
from pseudo_ris.stages.settings import STAGES, parse_config
from pseudo_ris.world.judge import share, total
from pseudo_ris.world.scene_set import map_in_processes
from pseudo_ris.world.scenes import Scene, draw_scene

OURS, PAPER = "default", "paper"
# Smaller differences, in standard errors, are not shown.
NOTABLE = 2.0

NO_PARSER = "needs spaCy's model en_core_web_lg; all rows find nouns by rules"
NO_GPU = "matters on a GPU only; all rows are computed in fp32"
ADDS_TO_CANDIDATES = "changes no candidate; see `pseudo-ris lab evaluate`"
NOT_MEASURED = {
    "scoring.noun_finder": NO_PARSER,
    "scoring.noun_rule": NO_PARSER,
    "coca.precision": NO_GPU,
    "clip.precision": NO_GPU,
    "listener.rivals": ADDS_TO_CANDIDATES,
    "places.forms": ADDS_TO_CANDIDATES,
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
    "In brackets: the difference from our settings; ≈ if it is within two standard errors (jackknife over images), = if it is "
    "zero. Shown twice: masks whose IoU with another mask is 0.5 or more. Under DoC: the share of kept expressions that are "
    "distinctive; the share of objects that keep an expression; drawn: the expected share of distinctive expressions when "
    "training draws one kept expression per mask uniformly. The embedded CoCa and CLIP were trained on crops with our fill and "
    "box, which favours our settings in the rows that switch these."
)


@dataclass(frozen=True)
class Section:
    """One table: rows measured on one kind of image and masks.

    switches: for each row except the first and last, the settings switched to the paper's value; several at once if they
    interact. draw: (split, seed, index) -> scene. scenes_per_image: drawn scenes per image. find_masks: run stage 1; otherwise
    stage 2 gets the true masks.
    """

    title: str
    switches: tuple[tuple[str, ...], ...]
    columns: dict[str, str]
    find_masks: bool = False
    draw: Callable[[str, int, int], Scene] = draw_scene
    scenes_per_image: int = 1

    @property
    def rows(self) -> tuple[tuple[str, ...], ...]:
        """The settings that each row switches: none, each of `switches`, all."""
        return ((), *self.switches, measured_differences())


# The mosaics take longest, so they come first: then all workers finish at about the same time.
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
    """Returns the settings that differ: "part.name" -> (value in OURS, value in PAPER). Raises UserError."""
    ours, paper = _flat(OURS), _flat(PAPER)
    return {setting: (ours[setting], paper[setting]) for setting in ours if ours[setting] != paper[setting]}


def _flat(preset: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for stage in STAGES:
        config = parse_config(stage, ["--config", preset])
        for part in fields(config):
            value = getattr(config, part.name)
            own = asdict(value) if is_dataclass(value) else {}
            flat |= {f"{part.name}.{name}": each for name, each in own.items()} or {part.name: value}
    return flat


def measured_differences() -> tuple[str, ...]:
    """Returns the names of the differing settings whose effect the demo models can show."""
    return tuple(setting for setting in preset_differences() if setting not in NOT_MEASURED)


def settings_with(papers: Iterable[str]) -> Settings:
    """Returns the demo's settings with the paper's values for `papers` and ours for the other measured differences."""
    chosen = set(papers)
    differences = preset_differences()
    return Settings().switched({setting: differences[setting][setting in chosen] for setting in measured_differences()})


def measure_image(split: str, seed: int, job: tuple[str, int]) -> tuple[Figures, ...]:
    """Measures all rows of a section on one image."""
    section, index = job
    chosen = SECTIONS[section]
    bench = Workbench(chosen.draw(split, seed, index), f"{split}_{seed}_{index}", RuleNounFinder())
    return tuple(bench.measure(settings_with(switched), chosen.find_masks) for switched in chosen.rows)


def measure(split: str, seed: int, scenes: int, workers: int) -> dict[str, list[tuple[Figures, ...]]]:
    """Returns the figures of all images of each section, computed in `workers` processes.

    Raises UserError when a preset cannot be read.
    """
    preset_differences()
    images = {name: scenes // section.scenes_per_image for name, section in SECTIONS.items()}
    jobs = [(name, index) for name, count in images.items() for index in range(count)]
    measured: dict[str, list[tuple[Figures, ...]]] = {name: [] for name in SECTIONS}
    results = map_in_processes(partial(measure_image, split, seed), jobs, workers, "images", ONE_THREAD)
    for (name, _), figures in zip(jobs, results, strict=True):
        measured[name].append(figures)
    return measured


@dataclass(frozen=True)
class Effect:
    """A figure of a row, its difference from the first row, and the standard error of the difference.

    NaN if there was nothing to count; the error of a single image is NaN.
    """

    value: float
    difference: float
    error: float

    @property
    def shown_value(self) -> str:
        """The value for a table, possibly "nan"."""
        return f"{self.value:.3f}".removeprefix("0")

    @property
    def shown_difference(self) -> str:
        """The difference for a table: "=" for zero, "≈" if it is within NOTABLE standard errors."""
        if self.difference == 0:
            return "="
        return "≈" if abs(self.difference) < NOTABLE * self.error else f"{self.difference:+.3f}".replace("0.", ".", 1)


def effect(images: Sequence[tuple[Figures, ...]], row: int, figure: Callable[[Figures], float]) -> Effect:
    """Returns a figure of a row over all images, with a jackknife standard error over images (Efron 1982)."""
    own, first = ([of_image[place] for of_image in images] for place in (row, 0))
    without_one = [figure(left) - figure(right) for left, right in zip(_leave_one_out(own), _leave_one_out(first), strict=True)]
    error = math.sqrt((len(images) - 1) * np.var(without_one)) if without_one else math.nan
    value = figure(total(own))
    return Effect(value, value - figure(total(first)), error)


def _leave_one_out(figures: Sequence[Figures]) -> list[Figures]:
    """Returns for each image the sum over all other images; [] for a single image."""
    before = [Figures(), *accumulate(figures)]
    after = [Figures(), *accumulate(reversed(figures))]
    return [before[at] + after[len(figures) - 1 - at] for at in range(len(figures))] if len(figures) > 1 else []


def table(measured: dict[str, list[tuple[Figures, ...]]]) -> str:
    """Returns the figures as Markdown: the settings that differ, then a table for each section that has images."""
    settings = []
    for setting, (ours, paper) in preset_differences().items():
        reason = f"not measured: {NOT_MEASURED[setting]}" if setting in NOT_MEASURED else ""
        settings.append((f"`{setting}`", _shown(ours), _shown(paper), reason))
    text = format_table(("setting", "configs/default.yaml", "configs/paper.yaml", ""), settings)
    for name, images in measured.items():
        if not images:
            continue
        section = SECTIONS[name]
        masks = total(of_image[0].masks for of_image in images)
        rows = []
        for row, switched in enumerate(section.rows):
            cells = [effect(images, row, FIGURES[column]) for column in section.columns]
            shown = [f"{cell.shown_value} ({cell.shown_difference})" if row else cell.shown_value for cell in cells]
            rows.append((_row_name(switched), *shown))
        title = f"{section.title} ({len(images)} images, {masks.objects} objects)"
        text += f"\n\n{title}\n\n{format_table(('', *section.columns.values()), rows)}"
    return f"{text}\n\n{LEGEND}"


def _row_name(switched: tuple[str, ...]) -> str:
    if not switched:
        return "ours"
    if switched == measured_differences():
        return "all of the paper's"
    return ", ".join(f"`{setting}` {_shown(preset_differences()[setting][1])}" for setting in switched)


def _shown(value: Any) -> str:
    """Formats a value as in YAML."""
    return json.dumps(value).strip('"')


def summary(measured: dict[str, list[tuple[Figures, ...]]]) -> dict[str, list[dict[str, Any]]]:
    """Returns the rows of each section: the settings switched, and each figure as [value, difference, error]; None for NaN."""
    return {
        name: [
            {"switched": list(switched)}
            | {figure: rounded(list(asdict(effect(images, row, of)).values())) for figure, of in FIGURES.items()}
            for row, switched in enumerate(SECTIONS[name].rows)
        ]
        for name, images in measured.items()
        if images
    }
