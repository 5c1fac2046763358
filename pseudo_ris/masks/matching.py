"""Which SAM mask replaces a CutLER mask (Pseudo-RIS, sec. 3.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pseudo_ris.config import MatchingConfig
from pseudo_ris.io.bitmask import PackedMasks, iou_with, pack, shared_pixels

# From this IoU on, two masks show the same object.
SAME_OBJECT_IOU = 0.5


@dataclass(frozen=True)
class Match:
    """One object: a CutLER mask and the SAM mask that redraws it.

    sam_index: None where no SAM mask fits the CutLER mask well enough; it is then kept as it is.
    iou: IoU of the two masks; 0 when `sam_index` is None or the two do not overlap.
    """

    cutler_index: int
    sam_index: int | None
    iou: float


def match_masks(cutler_masks: np.ndarray, sam_masks: np.ndarray, config: MatchingConfig) -> tuple[Match, ...]:
    """Finds the SAM mask of every CutLER mask.

    A CutLER mask's choice is the SAM mask with the largest intersection ("intersection", the paper's rule) or the largest
    IoU ("iou"). Of equals it is the larger in the other measure, then the first; with `ties` "first" (the release) the first.
    A choice whose IoU is below `min_iou` is given up: the CutLER mask keeps its own pixels. So does one that no SAM mask
    overlaps, unless `no_overlap` is "first": the release then chooses SAM mask 0. Without any SAM mask, where the release
    fails, all CutLER masks keep their pixels.

    Without deduplication everybody gets their choice, so that one SAM mask may stand for several objects (the paper).
    With it, no two results show the same object (the IoU of their masks is below `SAME_OBJECT_IOU`):

    1. Choices are granted in order of their IoU, so a contested SAM mask goes to the CutLER mask it fits best.
    2. A CutLER mask that was refused may still be another object, for example a part of the first. It gets another SAM
       mask if one fits it with an IoU of at least `SAME_OBJECT_IOU` and `min_iou`, again the best fits first. So does one
       that gave up its choice.
    3. The rest are duplicates and left out; so are CutLER masks with their own pixels that show a granted object, or that of
       an earlier one with its own pixels.

    Args:
        cutler_masks: bool [n, H, W].
        sam_masks: bool [m, H, W].
        config: the rules.

    Returns:
        the matches in the order of the CutLER masks.

    Raises ValueError when the masks are not bool or differ in height or width.
    """
    _check(cutler_masks, sam_masks)
    cutlers, sams = pack(cutler_masks), pack(sam_masks)
    overlaps = np.array([shared_pixels(cutlers, index, sams) for index in range(len(cutlers))]).reshape(len(cutlers), len(sams))
    fits = overlaps / np.maximum(cutlers.areas[:, None] + sams.areas - overlaps, 1)
    choices = _choices(overlaps, fits, config)
    wanted = {cutler: sam for cutler, sam in enumerate(choices) if sam is not None}
    granted = _grant(choices, fits, sams, config.min_iou) if config.deduplicate else wanted
    unmatched = [cutler for cutler, choice in enumerate(choices) if choice is None and cutler not in granted]
    kept = _new_objects(unmatched, cutlers, fits[:, list(granted.values())]) if config.deduplicate else unmatched
    return tuple(
        Match(cutler, granted.get(cutler), float(fits[cutler, granted[cutler]]) if cutler in granted else 0.0)
        for cutler in sorted([*granted, *kept])
    )


def _check(cutler_masks: np.ndarray, sam_masks: np.ndarray) -> None:
    for name, masks in (("cutler_masks", cutler_masks), ("sam_masks", sam_masks)):
        if masks.ndim != 3 or masks.dtype != bool:
            raise ValueError(f"{name}: expected bool [count, H, W], got {masks.dtype} {list(masks.shape)}")
    if cutler_masks.shape[1:] != sam_masks.shape[1:]:
        raise ValueError(
            f"masks of different images: cutler_masks are {list(cutler_masks.shape[1:])}, sam_masks {list(sam_masks.shape[1:])}"
        )


def _choices(overlaps: np.ndarray, fits: np.ndarray, config: MatchingConfig) -> list[int | None]:
    """Each CutLER mask's favourite SAM mask, None where it fits too badly or does not overlap but must."""
    first, second = (overlaps, fits) if config.rule == "intersection" else (fits, overlaps)
    if config.ties == "first":
        second = np.zeros_like(second)
    may_choose = fits >= config.min_iou
    if config.no_overlap == "keep":
        may_choose &= overlaps > 0
    orders = [np.lexsort((-then, -value)) for value, then in zip(first, second, strict=True)]  # stable: of equals the first
    return [
        int(order[0]) if len(order) and allowed[order[0]] else None for order, allowed in zip(orders, may_choose, strict=True)
    ]


def _grant(choices: list[int | None], fits: np.ndarray, sams: PackedMasks, min_iou: float) -> dict[int, int]:
    """CutLER index -> SAM index, each object once. fits: IoU [n, m]."""
    granted: dict[int, int] = {}
    shown = np.zeros(len(sams), bool)  # SAM masks of objects that are granted already

    def offer(pairs: list[tuple[int, int]]) -> None:
        for cutler, sam in sorted(pairs, key=lambda pair: (-fits[pair], pair)):
            if cutler not in granted and not shown[sam]:
                granted[cutler] = sam
                np.logical_or(shown, iou_with(sams, sam, sams) >= SAME_OBJECT_IOU, out=shown)

    offer([(cutler, sam) for cutler, sam in enumerate(choices) if sam is not None])
    offer([(int(cutler), int(sam)) for cutler, sam in np.argwhere(fits >= max(SAME_OBJECT_IOU, min_iou))])
    return granted


def _new_objects(unmatched: list[int], cutlers: PackedMasks, fits_of_granted: np.ndarray) -> list[int]:
    """The CutLER masks among `unmatched` that show no object that is shown already. fits_of_granted: IoU [n, granted]."""
    kept: list[int] = []
    for cutler in unmatched:
        likeness = np.concatenate([fits_of_granted[cutler], iou_with(cutlers, cutler, cutlers)[kept]])
        if not (likeness >= SAME_OBJECT_IOU).any():
            kept.append(cutler)
    return kept
