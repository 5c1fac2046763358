"""Judges masks and expressions of drawn scenes against their ground truth. Counts can be added over scenes.

An expression is *true* if it fits its mask's object, *unique* if it fits no other object of the scene, and *distinctive* if
both. An ungrammatical text fits nothing, so it is unique; uniqueness alone therefore means little.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from math import nan
from typing import Any, TypeVar

import numpy as np

from pseudo_ris.records import CaptionRecord, MaskCaptions
from pseudo_ris.world.grammar import full_caption, group_referents, parse, referents
from pseudo_ris.world.scenes import Scene

MATCH_IOU = 0.5
GOOD_IOU = 0.75

Added = TypeVar("Added", bound="Counts")
Keep = Callable[[MaskCaptions], Sequence[CaptionRecord]]


class Counts:
    """Base class of counts: `+` adds field by field, also nested counts and tuples of counts."""

    def __add__(self: Added, other: Added) -> Added:
        return type(self)(*(_sum(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)))


@dataclass(frozen=True)
class MaskCounts(Counts):
    """How well masks match the objects.

    objects, masks: their numbers. owned: masks that match an object (IoU >= MATCH_IOU). found: objects that a mask matches.
    found_well: objects that a mask matches with IoU >= GOOD_IOU. iou: sum of the best IoU of each found object.
    """

    objects: int = 0
    masks: int = 0
    owned: int = 0
    found: int = 0
    found_well: int = 0
    iou: float = 0.0

    @property
    def recall(self) -> float:
        """Share of objects with a mask of IoU >= GOOD_IOU."""
        return share(self.found_well, self.objects)

    @property
    def precision(self) -> float:
        """Share of masks that match an object."""
        return share(self.owned, self.masks)

    @property
    def mean_iou(self) -> float:
        """Mean over the found objects of their best mask's IoU."""
        return share(self.iou, self.found)


@dataclass(frozen=True)
class CaptionCounts(Counts):
    """How well a set of expressions describes the objects.

    captions: all expressions, including those of masks without an object, which are never true. objects: all of the scene.
    covered: objects with a mask that has an expression. told_apart: objects with a distinctive expression.
    """

    captions: int = 0
    true: int = 0
    unique: int = 0
    distinctive: int = 0
    objects: int = 0
    covered: int = 0
    told_apart: int = 0

    @property
    def true_share(self) -> float:
        """Share of the expressions that are true."""
        return share(self.true, self.captions)

    @property
    def unique_share(self) -> float:
        """Share of the expressions that fit no other object."""
        return share(self.unique, self.captions)

    @property
    def distinctive_share(self) -> float:
        """Share of the expressions that are true and unique."""
        return share(self.distinctive, self.captions)

    @property
    def covered_share(self) -> float:
        """Share of all objects that have an expression."""
        return share(self.covered, self.objects)

    @property
    def told_apart_share(self) -> float:
        """Share of all objects that have a distinctive expression."""
        return share(self.told_apart, self.objects)


@dataclass(frozen=True)
class GroupCounts(Counts):
    """Expressions of several masks and of none, and how many of them are right.

    An expression of several is right if it means exactly the objects of its masks, one of none if it is grammatical and means
    no object of the scene.
    """

    several: int = 0
    several_right: int = 0
    none: int = 0
    none_right: int = 0


@dataclass(frozen=True)
class PairCounts(Counts):
    """Counts of masks, all candidates, and the candidates that pass the filter."""

    masks: MaskCounts = field(default_factory=MaskCounts)
    candidates: CaptionCounts = field(default_factory=CaptionCounts)
    kept: CaptionCounts = field(default_factory=CaptionCounts)


def judge_pairs(scene: Scene, masks: np.ndarray, captions: Sequence[MaskCaptions], keep: Keep) -> PairCounts:
    """Judges the results of stages 1 and 2 on a scene.

    Args:
        masks: bool [M, H, W].
        captions: the scored candidates of each mask, in the order of `masks`.
        keep: returns the candidates of a mask that pass the filter.
    """
    owners = owners_of(scene, masks)
    candidates = [[candidate.text for candidate in own.candidates] for own in captions]
    kept = [[candidate.text for candidate in keep(own)] for own in captions]
    return PairCounts(judge_masks(scene, masks), judge_captions(scene, owners, candidates), judge_captions(scene, owners, kept))


def judge_masks(scene: Scene, masks: np.ndarray) -> MaskCounts:
    """Compares masks, bool [M, H, W], with all objects of the scene."""
    ious = iou_matrix(masks, scene.masks)
    best = ious.max(axis=0, initial=0.0)
    return MaskCounts(
        objects=len(scene.objects),
        masks=len(masks),
        owned=int((ious.max(axis=1, initial=0.0) >= MATCH_IOU).sum()),
        found=int((best >= MATCH_IOU).sum()),
        found_well=int((best >= GOOD_IOU).sum()),
        iou=float(best[best >= MATCH_IOU].sum()),
    )


def judge_captions(scene: Scene, owners: Sequence[int | None], captions: Sequence[Sequence[str]]) -> CaptionCounts:
    """Judges the expressions of each mask. owners: index of each mask's object, None if it matches none."""
    count = true = unique = distinctive = 0
    covered: set[int] = set()
    told_apart: set[int] = set()
    for owner, texts in zip(owners, captions, strict=True):
        for text in texts:
            holds_of = set(referents(text, scene))
            is_true, is_unique = owner in holds_of, not holds_of - {owner}
            count += 1
            true += is_true
            unique += is_unique
            distinctive += is_true and is_unique
            if owner is not None:
                covered.add(owner)
                if is_true and is_unique:
                    told_apart.add(owner)
    return CaptionCounts(count, true, unique, distinctive, len(scene.objects), len(covered), len(told_apart))


def judge_groups(
    scene: Scene, owners: Sequence[int | None], several: Iterable[tuple[str, Sequence[int]]], none: Iterable[str]
) -> GroupCounts:
    """Judges expressions of several masks, each with the indices of its masks, and expressions of none."""
    several_right = [
        bool(targets) and set(group_referents(text, scene)) == {owners[index] for index in targets} for text, targets in several
    ]
    none_right = [parse(text) is not None and not referents(text, scene) for text in none]
    return GroupCounts(len(several_right), sum(several_right), len(none_right), sum(none_right))


def owners_of(scene: Scene, masks: np.ndarray) -> list[int | None]:
    """Returns for each mask, bool [M, H, W], the object with the largest IoU; None if that IoU is below MATCH_IOU."""
    ious = iou_matrix(masks, scene.masks)
    return [int(row.argmax()) if row.max(initial=0.0) >= MATCH_IOU else None for row in ious]


def distinguishable(scene: Scene) -> int:
    """Counts the objects that differ from every other in category, colour, pattern or size."""
    return sum(referents(full_caption(obj), scene) == (index,) for index, obj in enumerate(scene.objects))


def iou_matrix(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Returns the IoU of every pair of masks: bool [M, H, W], bool [N, H, W] -> float64 [M, N]; 0 for two empty masks."""
    if not len(left) or not len(right):
        return np.zeros((len(left), len(right)))
    rows, columns = (masks.reshape(len(masks), -1).astype(np.float64) for masks in (left, right))
    intersection = rows @ columns.T
    union = rows.sum(axis=1)[:, None] + columns.sum(axis=1)[None] - intersection
    return intersection / np.maximum(union, 1)


def share(part: float, whole: float) -> float:
    """Returns part / whole; NaN if `whole` is 0."""
    return part / whole if whole else nan


def total(counts: Iterable[Added]) -> Added:
    """Returns the sum of one or more counts."""
    first, *rest = counts
    for other in rest:
        first = first + other
    return first


def _sum(left: Any, right: Any) -> Any:
    if isinstance(left, tuple):
        return tuple(a + b for a, b in zip(left, right, strict=True))
    return left + right
