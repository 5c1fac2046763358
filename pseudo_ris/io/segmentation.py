"""A COCO `segmentation` (polygons or run lengths) as a mask, also where the file is damaged or means harm."""

from __future__ import annotations

from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from pseudo_ris.errors import BadInputError

MAX_LENGTH = 4
"""Of a polygon, in steps from pixel to pixel for each pixel of its image: an outline of every single pixel has as many."""
COUNT_BITS = 5
BITS, NEGATIVE, MORE = 31, 16, 32
"""Of a character in a text of counts: its part of a number, the sign in a number's last, whether the number goes on."""
MAX_COUNT_CHARACTERS = 7
"""Of one number in a text of counts: 35 bits, more than any image has pixels."""


def decode_segmentation(segmentation: Any, height: int, width: int) -> np.ndarray:
    """The mask, bool [H, W], of polygons `[[x0, y0, x1, y1, ...], ...]` or of run lengths `{"size": [H, W], "counts": ...}`.

    Polygons are drawn as pycocotools draws them. counts: a list of numbers, or COCO's text of them. REFER sets have run lengths
    in a list; what a list holds is joined.
    Raises BadInputError that says what does not fit.
    """
    if isinstance(segmentation, dict):
        return _from_runs(segmentation, height, width)
    if not isinstance(segmentation, list) or not segmentation:
        raise BadInputError("segmentation is neither polygons nor run lengths")
    if all(isinstance(part, dict) for part in segmentation):
        return np.logical_or.reduce([_from_runs(part, height, width) for part in segmentation])
    for polygon in segmentation:
        _check_polygon(polygon, height, width)
    joined = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    return _from_runs({"size": joined["size"], "counts": joined["counts"].decode()}, height, width)


def _check_polygon(polygon: Any, height: int, width: int) -> None:
    """pycocotools takes what is no polygon for something else, and memory in proportion to a polygon's length."""
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        raise BadInputError("a polygon needs three or more points, x and y each")
    for position, value in enumerate(polygon):
        side = (width, height)[position % 2]
        if not isinstance(value, int | float) or not -side <= value <= 2 * side:
            raise BadInputError(f"a polygon has a point far outside of {width}x{height} pixels")
    points = np.array(polygon, float).reshape(-1, 2)
    if np.abs(points - np.roll(points, 1, 0)).max(1).sum() > MAX_LENGTH * height * width:
        raise BadInputError(f"a polygon is too long for {width}x{height} pixels")


def _from_runs(segmentation: dict[str, Any], height: int, width: int) -> np.ndarray:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size != [height, width]:
        raise BadInputError(f"run lengths are of size {size!r:.40}, the image is {[height, width]}")
    runs = read_counts(counts) if isinstance(counts, str) else _listed_counts(counts, height * width)
    if runs.min(initial=0) < 0 or runs.sum() != height * width:
        raise BadInputError(f"run lengths do not fill {width}x{height} pixels")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def _listed_counts(counts: Any, pixels: int) -> np.ndarray:
    if not isinstance(counts, list) or not all(isinstance(count, int) and 0 <= count <= pixels for count in counts):
        raise BadInputError("run lengths are neither COCO's text nor a list of numbers of pixels")
    return np.array(counts, np.int64)


def read_counts(text: str) -> np.ndarray:
    """The run lengths, int64, in COCO's text: of background and mask by turns, column by column, from the top left.

    A character holds 5 bits of a number, the lowest first, and whether more follow. Numbers after the third are differences
    to the number two before. (pycocotools reads past the end of a damaged text, and gives memory that it has not set.)
    Raises BadInputError.
    """
    codes = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8).astype(np.int64) - ord("0")
    if len(codes) == 0 or codes.min() < 0 or codes.max() >= 64 or codes[-1] & MORE:
        raise BadInputError("run lengths are no whole text of COCO's")
    ends = np.flatnonzero(codes & MORE == 0)
    starts = np.append(0, ends[:-1] + 1)
    lengths = ends - starts + 1
    if lengths.max() > MAX_COUNT_CHARACTERS:
        raise BadInputError("run lengths hold a number larger than any image")
    places = np.arange(len(codes)) - np.repeat(starts, lengths)
    runs = np.add.reduceat((codes & BITS) << (COUNT_BITS * places), starts)
    runs -= np.where(codes[ends] & NEGATIVE, 1 << (COUNT_BITS * lengths), 0)
    for first in (1, 2):
        runs[first::2] = np.cumsum(runs[first::2])
    return runs
