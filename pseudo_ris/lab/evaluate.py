"""Measures the embedded models on freshly drawn scenes against their ground truth (`pseudo-ris lab evaluate`)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from pseudo_ris.captions.distinctive import NO_LISTENER
from pseudo_ris.distinctiveness.groups import NamedMask, group_expressions
from pseudo_ris.distinctiveness.places import PLACE, without_places
from pseudo_ris.lab.output import format_table, rounded
from pseudo_ris.lab.workbench import ONE_THREAD, PAPER_THRESHOLD, RECOMMENDED_THRESHOLD, Settings, Workbench
from pseudo_ris.pairs.assembly import selected_candidates
from pseudo_ris.pairs.selection import kept_candidates
from pseudo_ris.pairs.selection_rules import PRESETS
from pseudo_ris.records import Candidate
from pseudo_ris.world.judge import (
    CaptionCounts,
    Counts,
    GroupCounts,
    MaskCounts,
    distinguishable,
    judge_captions,
    judge_groups,
    judge_masks,
    owners_of,
    share,
    total,
)
from pseudo_ris.world.scene_set import map_in_processes
from pseudo_ris.world.scenes import draw_scene

THRESHOLDS = tuple(sorted({PAPER_THRESHOLD, RECOMMENDED_THRESHOLD, 1.05, 1.1, 1.2, 1.3, 1.5, 1.7, 2.0, 2.5}))


@dataclass(frozen=True)
class CaptionFigures(Counts):
    """Judged expressions on one set of masks.

    beam: captions of beam search. plain, calibrated: sampled captions without and with calibration. candidates: beam and
    calibrated captions, which stage 2 scores. kept: the candidates that pass the filter at each of THRESHOLDS. recommended: all
    expressions that the preset "recommended" of `pseudo-ris select` keeps; no_places: the same without place words; places:
    those with place words alone. groups: composed expressions of several masks and of none.
    """

    beam: CaptionCounts = field(default_factory=CaptionCounts)
    plain: CaptionCounts = field(default_factory=CaptionCounts)
    calibrated: CaptionCounts = field(default_factory=CaptionCounts)
    candidates: CaptionCounts = field(default_factory=CaptionCounts)
    kept: tuple[CaptionCounts, ...] = (CaptionCounts(),) * len(THRESHOLDS)
    recommended: CaptionCounts = field(default_factory=CaptionCounts)
    no_places: CaptionCounts = field(default_factory=CaptionCounts)
    places: CaptionCounts = field(default_factory=CaptionCounts)
    groups: GroupCounts = field(default_factory=GroupCounts)


@dataclass(frozen=True)
class SceneFigures(Counts):
    """All counts of a scene: stage 1, and stage 2 on the true and on the predicted masks."""

    distinguishable: int
    masks: MaskCounts
    on_true_masks: CaptionFigures
    on_predicted_masks: CaptionFigures


def settings_with_weights(folder: Path | None) -> Settings:
    """Returns the demo's settings, with `<folder>/<model>.safetensors` as weights; None: the embedded weights."""
    if folder is None:
        return Settings()
    return Settings().switched(
        {f"{name}.weights": str(folder / f"{name}.safetensors") for name in ("cutler", "sam", "coca", "clip")}
    )


def measure_scene(settings: Settings, split: str, seed: int, index: int) -> SceneFigures:
    """Runs both stages on one freshly drawn scene and judges the results."""
    scene = draw_scene(split, seed, index)
    bench = Workbench.of_scene(scene, split, seed, index)
    predicted = bench.found_masks(settings.stage1)
    on_masks = partial(measure_captions, bench, settings)
    return SceneFigures(distinguishable(scene), judge_masks(scene, predicted), on_masks(scene.masks), on_masks(predicted))


def measure_captions(bench: Workbench, settings: Settings, masks: np.ndarray) -> CaptionFigures:
    """Writes, scores and judges the candidates of masks, bool [M, H, W]."""
    stage2 = settings.stage2
    # Beam captions do not depend on calibration, so only the calibrated run needs them; one beam is the least work.
    plain_decoding = replace(stage2.decoding, calibration="none", beams=1, beam_groups=1)
    calibrated = bench.candidates(masks, stage2)
    plain = bench.candidates(masks, replace(stage2, decoding=plain_decoding, listener=NO_LISTENER))
    with_places = bench.captions(masks, stage2)
    captions = without_places(with_places)
    recommended = selected_candidates(with_places, PRESETS["recommended"])
    owners = owners_of(bench.scene, masks)
    judge = partial(judge_captions, bench.scene, owners)
    groups = group_expressions([NamedMask.of(own) for own in captions])
    return CaptionFigures(
        beam=judge(_texts(calibrated, beam=True)),
        plain=judge(_texts(plain, beam=False)),
        calibrated=judge(_texts(calibrated, beam=False)),
        candidates=judge([[candidate.text for candidate in own] for own in calibrated]),
        kept=tuple(
            judge([[record.text for record in kept_candidates(own, threshold)] for own in captions]) for threshold in THRESHOLDS
        ),
        recommended=judge([[record.text for record in own] for own in recommended]),
        no_places=judge([[record.text for record in own if record.strategy != PLACE] for own in recommended]),
        places=judge([[record.text for record in own if record.strategy == PLACE] for own in recommended]),
        # The masks' seg_ids are their indices.
        groups=judge_groups(
            bench.scene,
            owners,
            [(each.text, each.targets) for each in groups if each.targets],
            [each.text for each in groups if not each.targets],
        ),
    )


def _texts(candidates: list[list[Candidate]], beam: bool) -> list[list[str]]:
    return [[candidate.text for candidate in own if (candidate.strategy == "beam") == beam] for own in candidates]


def measure(split: str, seed: int, scenes: int, workers: int, weights: Path | None, rivals: int) -> SceneFigures:
    """Returns the sums over `scenes` scenes, computed in `workers` processes. rivals: of the listener, see ListenerConfig.

    Raises UserError when weights are missing or do not fit, before any process starts.
    """
    settings = settings_with_weights(weights).switched({"listener.rivals": rivals})
    settings.load_models()
    return total(map_in_processes(partial(measure_scene, settings, split, seed), range(scenes), workers, "scenes", ONE_THREAD))


def summary(figures: SceneFigures, scenes: int, seed: int, seconds: float) -> dict[str, float | int | None]:
    """Returns the figures under their published names; None if there was nothing to count."""
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
    for suffix, on_masks in (("", figures.on_true_masks), ("_predicted", figures.on_predicted_masks)):
        result.update({f"{name}{suffix}": value for name, value in _caption_summary(on_masks).items()})
        for kind, counts in (("", on_masks.recommended), ("_no_places", on_masks.no_places), ("_places", on_masks.places)):
            result |= {
                f"true_recommended{suffix}{kind}": counts.true_share,
                f"distinctive_recommended{suffix}{kind}": counts.distinctive_share,
                f"objects_recommended{suffix}{kind}": counts.covered_share,
                f"told_apart_recommended{suffix}{kind}": counts.told_apart_share,
            }
        groups = on_masks.groups
        result |= {
            f"several{suffix}": groups.several,
            f"several_wrong{suffix}": 1 - share(groups.several_right, groups.several),
            f"no_target{suffix}": groups.none,
            f"no_target_wrong{suffix}": 1 - share(groups.none_right, groups.none),
        }
    return rounded(result)


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


def table(figures: SceneFigures) -> str:
    """Returns the figures as text: stage 1, the kinds of captions, and the filter at several thresholds."""
    masks = figures.masks
    text = (
        f"masks of CutLER+SAM: {masks.masks} for {masks.objects} objects; recall at IoU 0.75 {masks.recall:.3f}, "
        f"mean IoU of matched {masks.mean_iou:.3f}, precision {masks.precision:.3f}\n"
        f"objects that words can tell apart: {share(figures.distinguishable, masks.objects):.3f}"
    )
    for name, on_masks in (("ground-truth masks", figures.on_true_masks), ("CutLER+SAM masks", figures.on_predicted_masks)):
        rows = {
            "beam": on_masks.beam,
            "sampled, plain": on_masks.plain,
            "sampled, calibrated": on_masks.calibrated,
            "all candidates": on_masks.candidates,
        }
        for threshold, kept in zip(THRESHOLDS, on_masks.kept, strict=True):
            rows[f"kept, DoC > {threshold:g}{' (recommended)' if threshold == RECOMMENDED_THRESHOLD else ''}"] = kept
        rows |= {
            "preset recommended, sampled": on_masks.no_places,
            "preset recommended, place words": on_masks.places,
            "preset recommended, all": on_masks.recommended,
        }
        cells = []
        for label, row in rows.items():
            shares = (row.true_share, row.unique_share, row.distinctive_share, row.covered_share, row.told_apart_share)
            cells.append((label, str(row.captions), *(f"{value:.3f}" for value in shares)))
        groups = on_masks.groups
        composed = (
            f"composed from all candidates: {groups.several} expressions of several masks, "
            f"{groups.several - groups.several_right} wrong; {groups.none} of none, {groups.none - groups.none_right} wrong"
        )
        text += "\n\n" + format_table((name, "captions", "true", "unique", "distinctive", "objects with", "told apart"), cells)
        text += "\n\n" + composed
    return text
