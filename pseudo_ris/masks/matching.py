"""Which SAM mask replaces a CutLER mask (Pseudo-RIS, sec. 3.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

# From this IoU on, two masks show the same object.
SAME_OBJECT_IOU = 0.5
# Pixels a float32 product takes at once: sums of ones stay exact up to 2**24, and the float copies stay small.
BLOCK = 1 << 18


@dataclass(frozen=True)
class Match:
    """One object: a CutLER mask and the SAM mask that redraws it.

    sam_index: None where no SAM mask fits the CutLER mask well enough; it is then kept as it is.
    iou: IoU of the two masks; 0 when `sam_index` is None.
    """

    cutler_index: int
    sam_index: int | None
    iou: float


def match_masks(
    cutler_masks: np.ndarray,
    sam_masks: np.ndarray,
    rule: Literal["intersection", "iou"],
    deduplicate: bool,
    min_iou: float = 0.0,
) -> tuple[Match, ...]:
    """Finds the SAM mask of every CutLER mask.

    A CutLER mask's choice is the SAM mask with the largest intersection ("intersection", the paper's rule) or the largest
    IoU ("iou"); of equals the larger in the other measure, then the first. A choice whose IoU is below `min_iou` is given up:
    the CutLER mask keeps its own pixels.

    Without deduplication everybody gets their choice, so that one SAM mask may stand for several objects (the paper).
    With it, no two results show the same object (their SAM masks' IoU is below `SAME_OBJECT_IOU`):

    1. Choices are granted in order of their IoU, so a contested SAM mask goes to the CutLER mask it fits best.
    2. A CutLER mask that was refused may still be another object, for example a part of the first. It gets another SAM
       mask if one fits it with an IoU of at least `SAME_OBJECT_IOU` and `min_iou`, again the best fits first. So does one
       that gave up its choice.
    3. The rest are duplicates and left out; so are CutLER masks with their own pixels that show a granted object.

    Args:
        cutler_masks: bool [n, H, W].
        sam_masks: bool [m, H, W].

    Returns:
        the matches in the order of the CutLER masks.

    Raises ValueError when the masks are not bool or differ in height or width.
    """
    _check(cutler_masks, sam_masks)
    everything = np.concatenate([cutler_masks, sam_masks])
    intersections = intersection_areas(everything, sam_masks)
    ious = _ious(intersections, everything.sum((1, 2), dtype=np.int64), sam_masks.sum((1, 2), dtype=np.int64))
    count = len(cutler_masks)
    overlaps, fits, likeness = intersections[:count], ious[:count], ious[count:]
    choices = _choices(overlaps, fits, rule, min_iou)
    granted = (
        _grant(choices, fits, likeness, min_iou) if deduplicate else {c: s for c, s in enumerate(choices) if s is not None}
    )
    taken = list(granted.values())
    return tuple(
        Match(cutler, granted.get(cutler), float(fits[cutler, granted[cutler]]) if cutler in granted else 0.0)
        for cutler, choice in enumerate(choices)
        if cutler in granted or (choice is None and not (deduplicate and (fits[cutler, taken] >= SAME_OBJECT_IOU).any()))
    )


def intersection_areas(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Exact int64 [a, b] pixels shared by each of bool [a, H, W] and each of bool [b, H, W], as matrix products."""
    pixels = math.prod(first.shape[1:])
    rows, columns = first.reshape(len(first), pixels), second.reshape(len(second), pixels)
    areas = np.zeros((len(first), len(second)), np.int64)
    for start in range(0, pixels, BLOCK):
        part = slice(start, start + BLOCK)
        areas += (rows[:, part].astype(np.float32) @ columns[:, part].astype(np.float32).T).astype(np.int64)
    return areas


def _check(cutler_masks: np.ndarray, sam_masks: np.ndarray) -> None:
    for name, masks in (("cutler_masks", cutler_masks), ("sam_masks", sam_masks)):
        if masks.ndim != 3 or masks.dtype != bool:
            raise ValueError(f"{name}: expected bool [count, H, W], got {masks.dtype} {list(masks.shape)}")
    if cutler_masks.shape[1:] != sam_masks.shape[1:]:
        raise ValueError(
            f"masks of different images: cutler_masks are {list(cutler_masks.shape[1:])}, sam_masks {list(sam_masks.shape[1:])}"
        )


def _ious(intersections: np.ndarray, first_areas: np.ndarray, second_areas: np.ndarray) -> np.ndarray:
    """float64 [a, b]; 0 where both masks are empty."""
    unions = first_areas[:, None] + second_areas[None] - intersections
    return intersections / np.maximum(unions, 1)


def _choices(overlaps: np.ndarray, fits: np.ndarray, rule: str, min_iou: float) -> list[int | None]:
    """Each CutLER mask's favourite SAM mask, None where it fits too badly or nothing overlaps."""
    first, second = (overlaps, fits) if rule == "intersection" else (fits, overlaps)
    orders = [np.lexsort((-then, -value)) for value, then in zip(first, second, strict=True)]
    favourites = [int(order[0]) if len(order) and row[order[0]] else None for order, row in zip(orders, overlaps, strict=True)]
    return [sam if sam is None or fits[cutler, sam] >= min_iou else None for cutler, sam in enumerate(favourites)]


def _grant(choices: list[int | None], fits: np.ndarray, likeness: np.ndarray, min_iou: float) -> dict[int, int]:
    """CutLER index -> SAM index, each object once. fits: IoU [n, m]; likeness: IoU [m, m] of the SAM masks."""
    granted: dict[int, int] = {}

    def offer(pairs: list[tuple[int, int]]) -> None:
        for cutler, sam in sorted(pairs, key=lambda pair: (-fits[pair], pair)):
            if cutler not in granted and all(likeness[sam, taken] < SAME_OBJECT_IOU for taken in granted.values()):
                granted[cutler] = sam

    offer([(cutler, sam) for cutler, sam in enumerate(choices) if sam is not None])
    offer([(int(cutler), int(sam)) for cutler, sam in np.argwhere(fits >= max(SAME_OBJECT_IOU, min_iou))])
    return granted
