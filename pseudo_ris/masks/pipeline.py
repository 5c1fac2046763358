"""Stage 1 for one image: CutLER finds the objects, SAM draws them."""

from __future__ import annotations

import numpy as np

from pseudo_ris.config import MatchingConfig
from pseudo_ris.io.boxes import box_of
from pseudo_ris.masks.matching import match_masks
from pseudo_ris.models.cutler.detector import Cutler
from pseudo_ris.models.sam.segmenter import AutomaticSam
from pseudo_ris.records import MaskRecord


def draw_masks(detector: Cutler, segmenter: AutomaticSam, image: np.ndarray, matching: MatchingConfig) -> list[MaskRecord]:
    """Pseudo masks of an image (Pseudo-RIS, sec. 3.1), numbered from 0 in the order of CutLER's scores.

    Args:
        image: RGB uint8 [H, W, 3].

    Returns:
        One record per CutLER instance; fewer with deduplication, none when CutLER finds no object.
    """
    instances = detector.detect(image)
    if len(instances.scores) == 0:
        return []
    drawn = segmenter.generate(image)
    records: list[MaskRecord] = []
    for match in match_masks(instances.masks, drawn.masks, matching):
        by_sam = match.sam_index is not None
        mask = drawn.masks[match.sam_index] if by_sam else instances.masks[match.cutler_index]
        score = float(instances.scores[match.cutler_index])
        records.append(MaskRecord(len(records), mask, box_of(mask), score, "sam" if by_sam else "cutler"))
    return records
