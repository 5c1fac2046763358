"""Figures of referring image segmentation: oIoU, mIoU and P@0.5 to P@0.9.

Papers call either of the first two IoU; here the one meant is always named.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pseudo_ris.errors import UserError

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class Overlap:
    """Pixels that two masks share, and pixels of either."""

    intersection: int
    union: int

    @classmethod
    def of(cls, predicted: np.ndarray, truth: np.ndarray) -> Overlap:
        """Of two masks, bool [H, W]."""
        return cls(int((predicted & truth).sum()), int((predicted | truth).sum()))

    @property
    def iou(self) -> float:
        """Intersection over union; 0 where both masks are empty, as in LAVT's evaluator."""
        return self.intersection / self.union if self.union else 0.0


@dataclass(frozen=True)
class Scores:
    """Figures of a set of predictions, one a sentence, all from 0 to 1.

    oiou: sum of the intersections over the sum of the unions, so that large objects count more. miou: mean of each prediction's
    IoU. precision: P@0.5, P@0.6, P@0.7, P@0.8, P@0.9: the share of predictions whose IoU is at least that, as LAVT's and
    MaskRIS's evaluators count; CRIS's and ETRIS's count those above it. count: number of predictions.
    """

    oiou: float
    miou: float
    precision: tuple[float, ...]
    count: int

    @classmethod
    def of(cls, overlaps: Sequence[Overlap]) -> Scores:
        """Of at least one prediction, the same in any order. Raises UserError when there is none."""
        if not overlaps:
            raise UserError("there is no expression to evaluate; give a split that has some")
        ious = [overlap.iou for overlap in overlaps]
        union = sum(overlap.union for overlap in overlaps)
        return cls(
            oiou=Overlap(sum(overlap.intersection for overlap in overlaps), union).iou,
            miou=math.fsum(ious) / len(ious),
            precision=tuple(sum(iou >= threshold for iou in ious) / len(ious) for threshold in THRESHOLDS),
            count=len(ious),
        )

    @property
    def named(self) -> dict[str, float]:
        """oIoU, mIoU, P@0.5, ..., P@0.9 and count, in this order."""
        precision = {f"P@{threshold}": share for threshold, share in zip(THRESHOLDS, self.precision, strict=True)}
        return {"oIoU": self.oiou, "mIoU": self.miou, **precision, "count": self.count}
