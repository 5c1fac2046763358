"""Training and validation images."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

from pseudo_ris.errors import UserError
from pseudo_ris.io.files import digest
from pseudo_ris.pairs.pair_set import PairImage

TRAIN = "train"
VAL = "val"
DIGITS = 16
"""Of a digest: 64 bits are as good as any number in [0, 1)."""


def split_of(image_id: str, val_share: float, seed: int) -> str:
    """The split "val" for a share of all images, "train" for the others.

    Only the seed and the id decide, so that a set may grow or be selected anew.
    """
    return VAL if int(digest(seed, image_id)[:DIGITS], 16) < val_share * 16**DIGITS else TRAIN


def with_splits(images: Iterable[PairImage], val_share: float, seed: int) -> Iterator[PairImage]:
    """The images with the splits that `split_of` gives them. Raises UserError unless the share is in [0, 1)."""
    if not 0 <= val_share < 1:
        raise UserError(f"--val-share {val_share}: must be 0 or more and less than 1")
    return (dataclasses.replace(image, split=split_of(image.image_id, val_share, seed)) for image in images)
