"""Figures of referring image segmentation: oIoU, mIoU and P@0.5 to P@0.9, and those of gRefCOCO.

Papers call either of the first two IoU; here the one meant is always named.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pseudo_ris.errors import UserError

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
LEAST_PIXELS = 50
"""A prediction with fewer pixels says that there is no target. ReLA has an output for this, our models have only masks."""


@dataclass(frozen=True)
class Overlap:
    """Pixels that two masks share, and pixels of either.

    answered: whether the predicted mask has LEAST_PIXELS. no_target: whether the true mask has none at all.
    """

    intersection: int
    union: int
    answered: bool = field(default=True, compare=False)
    no_target: bool = field(default=False, compare=False)

    @classmethod
    def of(cls, predicted: np.ndarray, truth: np.ndarray) -> Overlap:
        """Of two masks, bool [H, W]."""
        shared, either = int((predicted & truth).sum()), int((predicted | truth).sum())
        return cls(shared, either, int(predicted.sum()) >= LEAST_PIXELS, not truth.any())

    @property
    def iou(self) -> float:
        """Intersection over union; 0 where both masks are empty, as in LAVT's evaluator."""
        return self.intersection / self.union if self.union else 0.0


@dataclass(frozen=True)
class GeneralScores:
    """gRefCOCO's figures, from 0 to 1, as ReLA's evaluator computes them (Liu et al., CVPR 2023).

    giou: mean IoU, which is 1 for a sentence without a target that is recognised as such, and 0 for other errors about targets.
    ciou: sum of the intersections over the sum of the unions; a recognised sentence without a target adds to neither.
    n_acc: share of the sentences without a target that are recognised. t_acc: share of the others that are answered. Both are 0
    where no sentence lacks a target.
    """

    giou: float
    ciou: float
    n_acc: float
    t_acc: float

    @classmethod
    def of(cls, overlaps: Sequence[Overlap]) -> GeneralScores:
        """Of at least one prediction."""
        without = [each for each in overlaps if each.no_target]
        targeted = [each for each in overlaps if not each.no_target]
        recognised = sum(not each.answered for each in without)
        found = [Overlap(each.intersection if each.answered else 0, each.union) for each in targeted]
        unions = sum(each.union for each in found) + sum(each.union for each in without if each.answered)
        intersections = sum(each.intersection for each in found)
        return cls(
            giou=math.fsum([recognised, *(each.iou for each in found)]) / len(overlaps),
            ciou=Overlap(intersections, unions).iou,
            n_acc=recognised / len(without) if without else 0.0,
            t_acc=sum(each.answered for each in targeted) / len(targeted) if without and targeted else 0.0,
        )


@dataclass(frozen=True)
class Scores:
    """Figures of a set of predictions, one a sentence, all from 0 to 1.

    oiou: sum of the intersections over the sum of the unions, so that large objects count more. miou: mean of each prediction's
    IoU. precision: P@0.5, P@0.6, P@0.7, P@0.8, P@0.9: the share of predictions whose IoU is at least that, as LAVT's and
    MaskRIS's evaluators count; CRIS's and ETRIS's count those above it. count: number of predictions. general: gRefCOCO's
    figures; None where they are not asked for.
    """

    oiou: float
    miou: float
    precision: tuple[float, ...]
    count: int
    general: GeneralScores | None = None

    @classmethod
    def of(cls, overlaps: Sequence[Overlap], general: bool = False) -> Scores:
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
            general=GeneralScores.of(overlaps) if general else None,
        )

    @property
    def named(self) -> dict[str, float]:
        """oIoU, mIoU, P@0.5, ..., P@0.9, gRefCOCO's gIoU, cIoU, N-acc and T-acc where there are, and count, in this order."""
        precision = {f"P@{threshold}": share for threshold, share in zip(THRESHOLDS, self.precision, strict=True)}
        own = self.general
        general = {"gIoU": own.giou, "cIoU": own.ciou, "N-acc": own.n_acc, "T-acc": own.t_acc} if own else {}
        return {"oIoU": self.oiou, "mIoU": self.miou, **precision, **general, "count": self.count}
