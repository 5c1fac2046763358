"""Compares the masks and pairs of drawn scenes with their ground truth (`pseudo-ris lab summary`)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from pseudo_ris.distinctiveness.places import without_places
from pseudo_ris.io.image_ids import image_id_of
from pseudo_ris.io.images import read_bytes
from pseudo_ris.pairs.assembly import selected_candidates
from pseudo_ris.pairs.selection import kept_candidates
from pseudo_ris.pairs.selection_rules import PRESETS
from pseudo_ris.records import CaptionRecord, ImageRecord, MaskCaptions
from pseudo_ris.storage.caption_parts import PartStore
from pseudo_ris.storage.mask_store import MaskStore
from pseudo_ris.world.coco_writer import load_coco_scenes
from pseudo_ris.world.judge import PairCounts, judge_pairs, total


def summarise(scenes: Path, masks: Path, output: Path, name: str, threshold: float) -> list[str]:
    """Returns the lines of the table. Skips and counts scenes that stage 1 or 2 has not finished."""
    store, parts = MaskStore.existing(masks), PartStore(output, name)
    keep = partial(kept_candidates, threshold=threshold)
    judged: list[PairCounts] = []
    recommended: list[PairCounts] = []
    drawn = load_coco_scenes(scenes)
    for file_name, scene in drawn:
        record = ImageRecord(image_id_of(file_name), file_name, partial(read_bytes, scenes / "images" / file_name))
        for part in parts.read_all([record]):
            by_id = dict(zip(*store.read(record).decode(*scene.label_map.shape), strict=True))
            found = [by_id[captions.seg_id] for captions in part.masks]
            pixels = np.stack(found) if found else np.zeros((0, *scene.label_map.shape), bool)
            judged.append(judge_pairs(scene, pixels, without_places(part.masks), keep))
            recommended.append(judge_pairs(scene, pixels, part.masks, _recommended))
    if not judged:
        return ["no scene has pairs yet; run both stages on them first"]
    counts, best = total(judged), total(recommended).kept
    left_out = f" ({len(drawn) - len(judged)} not finished)" if len(judged) < len(drawn) else ""
    return [
        f"images                                      {len(judged):6d}{left_out}",
        f"masks, of {counts.masks.objects} drawn objects               {counts.masks.masks:6d}",
        f"candidates without place words              {counts.candidates.captions:6d}",
        f"kept, DoC > {threshold:<4g}                            {counts.kept.captions:6d}",
        "against the ground truth",
        f"  objects found, mask IoU >= 0.75           {counts.masks.recall:6.3f}",
        f"  mean IoU of found objects                 {counts.masks.mean_iou:6.3f}",
        f"  distinctive expressions before the filter {counts.candidates.distinctive_share:6.3f}",
        f"  distinctive expressions after the filter  {counts.kept.distinctive_share:6.3f}",
        f"  objects that keep an expression           {counts.kept.covered_share:6.3f}",
        f"preset recommended (pseudo-ris select)      {best.captions:6d}",
        f"  distinctive expressions                   {best.distinctive_share:6.3f}",
        f"  objects with an expression                {best.covered_share:6.3f}",
    ]


def _recommended(captions: MaskCaptions) -> list[CaptionRecord]:
    return selected_candidates([captions], PRESETS["recommended"])[0]
