"""Fits a rule of selection on drawn scenes and judges it on other ones (`pseudo-ris lab fit-rule`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from pseudo_ris.distinctiveness.places import without_places
from pseudo_ris.lab.output import format_table
from pseudo_ris.lab.workbench import ONE_THREAD, Settings, Workbench
from pseudo_ris.pairs.assembly import selected_candidates, table_of_parts
from pseudo_ris.pairs.fitted import FittedRule
from pseudo_ris.pairs.fitting import fit
from pseudo_ris.pairs.selection_rules import PRESETS, SelectionRules
from pseudo_ris.records import MaskCaptions
from pseudo_ris.storage.caption_parts import Part
from pseudo_ris.world.grammar import referents
from pseudo_ris.world.judge import CaptionCounts, judge_captions, owners_of, total
from pseudo_ris.world.scene_set import map_in_processes
from pseudo_ris.world.scenes import Scene, draw_scene

FITTED_SPLIT, JUDGED_SPLIT = "validation", "evaluation"
PROBABILITIES = (0.5, 0.7, 0.8, 0.9, 0.95)


@dataclass(frozen=True)
class Captioned:
    """A scene with the scored candidates of stage 1's masks, without place words. owners: see `world.judge.owners_of`."""

    name: str
    scene: Scene
    owners: list[int | None]
    captions: list[MaskCaptions]


def caption_scenes(split: str, seed: int, scenes: int, workers: int) -> list[Captioned]:
    """Draws scenes and runs both stages on them. Raises UserError when the embedded models cannot be loaded."""
    Settings().load_models()
    work = partial(_caption_scene, split, seed)
    return list(map_in_processes(work, range(scenes), workers, f"{split} scenes", ONE_THREAD))


def _caption_scene(split: str, seed: int, index: int) -> Captioned:
    settings, scene = Settings(), draw_scene(split, seed, index)
    bench = Workbench.of_scene(scene, split, seed, index)
    masks = bench.found_masks(settings.stage1)
    captions = without_places(bench.captions(masks, settings.stage2))
    return Captioned(bench.image_id, replace(scene, image=np.zeros((0, 0, 3), np.uint8)), owners_of(scene, masks), captions)


def fit_on(captioned: Sequence[Captioned]) -> FittedRule:
    """Fits a rule whose right candidates are those that mean their mask's object alone."""
    table = table_of_parts(Part(each.name, each.name, tuple(each.captions)) for each in captioned)
    labels = [
        referents(record.text, each.scene) == (owner,)
        for each in captioned
        for owner, mask in zip(each.owners, each.captions, strict=True)
        for record in mask.candidates
    ]
    return fit(table, np.array(labels, np.int64))


def judge(captioned: Sequence[Captioned], rule: FittedRule) -> dict[str, CaptionCounts]:
    """Counts what the preset `recommended`, and `fitted` with several probabilities, keep of the sampled candidates."""
    fitted = PRESETS["fitted"]
    choices: dict[str, SelectionRules] = {"recommended": PRESETS["recommended"]}
    choices |= {f"fitted, probability {p:g}": replace(fitted, probability=p) for p in PROBABILITIES}
    return {name: total(_judge_scene(each, rules, rule) for each in captioned) for name, rules in choices.items()}


def _judge_scene(each: Captioned, rules: SelectionRules, rule: FittedRule) -> CaptionCounts:
    kept = selected_candidates(each.captions, rules, rule)
    return judge_captions(each.scene, each.owners, [[record.text for record in own] for own in kept])


def table(judged: dict[str, CaptionCounts]) -> str:
    """The counts as a Markdown table."""
    rows = []
    for name, counts in judged.items():
        shares = (counts.true_share, counts.distinctive_share, counts.covered_share, counts.told_apart_share)
        rows.append((name, str(counts.captions), *(f"{share:.3f}" for share in shares)))
    return format_table(("preset, no place words", "expressions", "true", "distinctive", "objects with", "told apart"), rows)
