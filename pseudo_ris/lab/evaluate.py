"""Measures the embedded models on freshly drawn scenes, against their ground truth.

`pseudo-ris lab evaluate --scenes 300 --seed S` prints a table and, as its last line, one JSON object.
`--split validation` measures on scenes for choosing settings; the shipped ones were chosen on those.
"""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from pseudo_ris.captions.distinctive import write_candidates
from pseudo_ris.config import CaptionGenerationConfig, DecodingConfig, MaskGenerationConfig, ScoringConfig
from pseudo_ris.distinctiveness.nouns import NounFinder, make_noun_finder
from pseudo_ris.distinctiveness.score import score_candidates
from pseudo_ris.masks.pipeline import draw_masks
from pseudo_ris.models.clip.scorer import ClipScorer
from pseudo_ris.models.coca.captioner import CocaCaptioner
from pseudo_ris.models.cutler.detector import Cutler
from pseudo_ris.models.sam.segmenter import AutomaticSam
from pseudo_ris.pairs.selection import kept_candidates
from pseudo_ris.records import Candidate
from pseudo_ris.world.judge import (
    CaptionCounts,
    Counts,
    MaskCounts,
    distinguishable,
    judge_captions,
    judge_masks,
    owners_of,
    share,
    total,
)
from pseudo_ris.world.scenes import Scene, draw_scene

RECOMMENDED_THRESHOLD = ScoringConfig().threshold
PAPER_THRESHOLD = 1.0
THRESHOLDS = tuple(sorted({PAPER_THRESHOLD, RECOMMENDED_THRESHOLD, 1.05, 1.1, 1.2, 1.3, 1.5, 1.7, 2.0, 2.5}))
GROUND_TRUTH, PREDICTED = "", "_predicted"


@dataclass(frozen=True)
class Models:
    """The four models and the settings they are run with."""

    detector: Cutler
    segmenter: AutomaticSam
    captioner: CocaCaptioner
    scorer: ClipScorer
    noun_finder: NounFinder
    stage1: MaskGenerationConfig
    stage2: CaptionGenerationConfig


@dataclass(frozen=True)
class CaptionFigures(Counts):
    """Judged expressions on one set of masks.

    beam, plain, calibrated: beam captions; sampled captions without and with calibration. candidates: beam and calibrated,
    all that stage 2 scores. kept: those that pass the filter at each of THRESHOLDS.
    """

    beam: CaptionCounts = field(default_factory=CaptionCounts)
    plain: CaptionCounts = field(default_factory=CaptionCounts)
    calibrated: CaptionCounts = field(default_factory=CaptionCounts)
    candidates: CaptionCounts = field(default_factory=CaptionCounts)
    kept: tuple[CaptionCounts, ...] = (CaptionCounts(),) * len(THRESHOLDS)


@dataclass(frozen=True)
class SceneFigures(Counts):
    """Everything measured on a scene: stage 1, and stage 2 on the true and on the predicted masks."""

    distinguishable: int
    masks: MaskCounts
    on_true_masks: CaptionFigures
    on_predicted_masks: CaptionFigures


def load_models(weights: Path | None) -> Models:
    """The demo models on the CPU, with the shipped settings.

    weights: folder with cutler, sam, coca and clip .safetensors; None takes the embedded ones. Raises UserError.
    """

    def located(name: str) -> str:
        return "demo" if weights is None else str(weights / f"{name}.safetensors")

    stage1, stage2 = MaskGenerationConfig(), CaptionGenerationConfig()
    return Models(
        Cutler.from_config(replace(stage1.cutler, weights=located("cutler")), "cpu"),
        AutomaticSam.from_config(replace(stage1.sam, weights=located("sam")), "cpu"),
        CocaCaptioner.from_config(replace(stage2.coca, weights=located("coca")), "cpu"),
        ClipScorer.from_config(replace(stage2.clip, weights=located("clip")), "cpu"),
        make_noun_finder(stage2.scoring),
        stage1,
        stage2,
    )


def measure_scene(models: Models, split: str, seed: int, index: int) -> SceneFigures:
    """Runs both stages on one fresh scene and judges what they made."""
    scene = draw_scene(split, seed, index)
    image_id = f"{split}_{seed}_{index}"
    records = draw_masks(models.detector, models.segmenter, scene.image, models.stage1.matching)
    drawn = [record.mask for record in records if not record.mask.all()]  # stage 2 skips a mask of the whole image
    predicted = np.stack(drawn) if drawn else np.zeros((0, *scene.image.shape[:2]), bool)
    return SceneFigures(
        distinguishable(scene),
        judge_masks(scene, predicted),
        measure_captions(models, scene, scene.masks, image_id),
        measure_captions(models, scene, predicted, image_id),
    )


def measure_captions(models: Models, scene: Scene, masks: np.ndarray, image_id: str) -> CaptionFigures:
    """Writes, scores and judges the candidates of masks, bool [M, H, W]."""
    if not len(masks):
        nothing = CaptionCounts(objects=len(scene.objects))
        return CaptionFigures(nothing, nothing, nothing, nothing, (nothing,) * len(THRESHOLDS))
    seg_ids = list(range(len(masks)))
    stage2 = models.stage2

    def write(decoding: DecodingConfig) -> list[list[Candidate]]:
        return write_candidates(models.captioner, scene.image, masks, seg_ids, image_id, decoding, stage2.crops)

    calibrated = write(stage2.decoding)
    # Beam captions do not depend on calibration and are taken from the first run; one beam is the least work.
    plain = write(replace(stage2.decoding, calibration="none", beams=1, beam_groups=1))
    captions = score_candidates(
        models.scorer, models.noun_finder, scene.image, masks, seg_ids, calibrated, stage2.scoring, stage2.crops
    )
    judge = partial(judge_captions, scene, owners_of(scene, masks))
    return CaptionFigures(
        beam=judge(_texts(calibrated, beam=True)),
        plain=judge(_texts(plain, beam=False)),
        calibrated=judge(_texts(calibrated, beam=False)),
        candidates=judge([[candidate.text for candidate in own] for own in calibrated]),
        kept=tuple(
            judge([[record.text for record in kept_candidates(own, threshold)] for own in captions]) for threshold in THRESHOLDS
        ),
    )


def _texts(candidates: list[list[Candidate]], beam: bool) -> list[list[str]]:
    return [[candidate.text for candidate in own if (candidate.strategy == "beam") == beam] for own in candidates]


def measure(split: str, seed: int, scenes: int, workers: int, weights: Path | None) -> SceneFigures:
    """Sums over `scenes` scenes. Each runs on one thread, so the result does not depend on `workers`.

    Raises UserError when weights are missing or do not fit, before anything is started.
    """
    _start_worker(weights)
    return total(tqdm(_figures(split, seed, scenes, workers, weights), total=scenes, desc="scenes", dynamic_ncols=True))


def _figures(split: str, seed: int, scenes: int, workers: int, weights: Path | None) -> Iterator[SceneFigures]:
    if workers == 1:
        yield from (_work(split, seed, index) for index in range(scenes))
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start_worker, (weights,)) as pool:
        yield from pool.map(partial(_work, split, seed), range(scenes))


_models: list[Models] = []


def _start_worker(weights: Path | None) -> None:
    torch.set_num_threads(1)
    _models[:] = [load_models(weights)]


def _work(split: str, seed: int, index: int) -> SceneFigures:
    return measure_scene(_models[0], split, seed, index)


def summary(figures: SceneFigures, scenes: int, seed: int, seconds: float) -> dict[str, float | int | None]:
    """The figures under their published names; None where nothing was there to be counted."""
    result: dict[str, float | int] = {
        "scenes": scenes,
        "seed": seed,
        "seconds": round(seconds, 1),
        "objects": figures.masks.objects,
        "objects_distinguishable": share(figures.distinguishable, figures.masks.objects),
        "mask_recall_75": figures.masks.recall,
        "mask_mean_iou": figures.masks.mean_iou,
        "mask_precision": figures.masks.precision,
        "recommended_threshold": RECOMMENDED_THRESHOLD,
    }
    for suffix, on_masks in ((GROUND_TRUTH, figures.on_true_masks), (PREDICTED, figures.on_predicted_masks)):
        result.update({f"{name}{suffix}": value for name, value in _caption_summary(on_masks).items()})
    return {name: _rounded(value) for name, value in result.items()}


def _caption_summary(figures: CaptionFigures) -> dict[str, float]:
    kept = figures.kept[THRESHOLDS.index(PAPER_THRESHOLD)]
    recommended = figures.kept[THRESHOLDS.index(RECOMMENDED_THRESHOLD)]
    return {
        "beam_true": figures.beam.true_share,
        "beam_distinctive": figures.beam.distinctive_share,
        "true_plain": figures.plain.true_share,
        "true_calibrated": figures.calibrated.true_share,
        "unique_plain": figures.plain.unique_share,
        "unique_calibrated": figures.calibrated.unique_share,
        "distinctive_plain": figures.plain.distinctive_share,
        "distinctive_calibrated": figures.calibrated.distinctive_share,
        "true_candidates": figures.candidates.true_share,
        "distinctive_candidates": figures.candidates.distinctive_share,
        "objects_told_apart_candidates": figures.candidates.told_apart_share,
        "distinctive_kept": kept.distinctive_share,
        "objects_kept": kept.covered_share,
        "true_kept_recommended": recommended.true_share,
        "distinctive_kept_recommended": recommended.distinctive_share,
        "objects_kept_recommended": recommended.covered_share,
        "objects_told_apart_recommended": recommended.told_apart_share,
    }


def _rounded(value: float | int) -> float | int | None:
    if isinstance(value, int):
        return value
    return None if math.isnan(value) else round(value, 4)


def table(figures: SceneFigures) -> str:
    """The figures for a person: stage 1, the kinds of captions, and the filter at several thresholds."""
    masks = figures.masks
    recommended = f"kept, DoC > {RECOMMENDED_THRESHOLD:g}"
    lines = [
        f"masks of CutLER+SAM: {masks.masks} for {masks.objects} objects; recall at IoU 0.75 {masks.recall:.3f}, "
        f"mean IoU of matched {masks.mean_iou:.3f}, precision {masks.precision:.3f}",
        f"objects that words can tell apart: {share(figures.distinguishable, masks.objects):.3f}",
    ]
    for name, on_masks in (
        ("ground-truth masks", figures.on_true_masks),
        ("CutLER+SAM masks", figures.on_predicted_masks),
    ):
        lines += ["", f"{name:28}{'captions':>10}{'true':>8}{'unique':>8}{'distinctive':>13}{'objects with':>14}"]
        rows = [
            ("beam", on_masks.beam),
            ("sampled, plain", on_masks.plain),
            ("sampled, calibrated", on_masks.calibrated),
            ("all candidates", on_masks.candidates),
            *((f"kept, DoC > {t:g}", kept) for t, kept in zip(THRESHOLDS, on_masks.kept, strict=True)),
        ]
        lines += [
            f"{label:28}{row.captions:10}{row.true_share:8.3f}{row.unique_share:8.3f}{row.distinctive_share:13.3f}"
            f"{row.covered_share:14.3f}{'  recommended' if label == recommended else ''}"
            for label, row in rows
        ]
    return "\n".join(lines)
