"""Masks at one bit a pixel, whose overlaps are counted with word-wide ands inside their boxes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

WORD = 64


@dataclass(frozen=True, eq=False)
class PackedMasks:
    """n masks of one image.

    words: uint64 [n, H, ceil(W / 64)], a row's pixels in its words, filled up with zeros.
    boxes: int64 [n, 4], first row, end row, first word and end word of what is not zero; empty masks have an empty box.
    areas: int64 [n], pixels.
    """

    words: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray

    def __len__(self) -> int:
        return len(self.words)


def pack(masks: np.ndarray) -> PackedMasks:
    """bool [n, H, W] -> packed."""
    rows = np.packbits(masks, axis=2)
    rows = np.pad(rows, ((0, 0), (0, 0), (0, -rows.shape[2] % (WORD // 8))))
    words = rows.view(np.uint64)
    spans = (_span(np.bitwise_or.reduce(words, axis=axis) != 0) for axis in (2, 1))
    boxes = np.stack([edge for span in spans for edge in span], axis=1)
    return PackedMasks(words, boxes, np.bitwise_count(words).sum((1, 2), dtype=np.int64))


def shared_pixels(one: PackedMasks, index: int, others: PackedMasks) -> np.ndarray:
    """Pixels that mask `index` of `one` shares with each of `others`, int64 [len(others)]."""
    top, bottom, left, right = one.boxes[index]
    first_row, end_row, first_word, end_word = others.boxes.T
    near = np.flatnonzero((first_row < bottom) & (end_row > top) & (first_word < right) & (end_word > left))
    common = others.words[near, top:bottom, left:right]
    common &= one.words[index, top:bottom, left:right]
    areas = np.zeros(len(others), np.int64)
    areas[near] = np.bitwise_count(common).sum((1, 2), dtype=np.int64)
    return areas


def iou_with(one: PackedMasks, index: int, others: PackedMasks) -> np.ndarray:
    """IoU of mask `index` of `one` with each of `others`, float64 [len(others)]; 0 where both are empty."""
    shared = shared_pixels(one, index, others)
    return shared / np.maximum(one.areas[index] + others.areas - shared, 1)


def _span(occupied: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and end index of what is true in each row of bool [n, k]; 0 and 0 where nothing is."""
    first = occupied.argmax(axis=1)
    end = occupied.shape[1] - occupied[:, ::-1].argmax(axis=1)
    return first, np.where(occupied.any(axis=1), end, 0)
