"""Mask-expression pairs as every exchange format gives and takes them: images, their objects, the objects' sentences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from pycocotools import mask as coco_mask

from pseudo_ris.errors import BadInputError

NO_CATEGORY = 1
"""Category id of pseudo pairs: trainers read a number there and use it for nothing."""


@dataclass(frozen=True)
class Rle:
    """A mask as COCO's compressed run lengths. size: (height, width). counts: the text COCO files hold."""

    size: tuple[int, int]
    counts: str

    @classmethod
    def of(cls, mask: np.ndarray) -> Rle:
        """The run lengths of a mask, bool [H, W]."""
        encoded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
        return cls((int(mask.shape[0]), int(mask.shape[1])), encoded["counts"].decode("ascii"))

    def decode(self) -> np.ndarray:
        """The mask, bool [H, W]. Raises BadInputError when the counts do not fill the size."""
        try:
            return coco_mask.decode({"size": list(self.size), "counts": self.counts.encode("ascii")}).astype(bool)
        except (ValueError, UnicodeEncodeError, TypeError) as error:
            raise BadInputError(f"run lengths do not fit their size {self.size} ({error})") from error


@dataclass(frozen=True)
class PairObject:
    """One object of an image with its expressions; what REFER calls a ref.

    ref_id: unique in the set: REFER's ref_id, a row's index in the pairs CSV.
    object_id: number of the mask, unique among the set's masks: REFER's ann_id, ETRIS's segment_id. Refs that share it share
        their mask.
    seg_id: number of the mask within its image: that of its file in the folder of pseudo masks. Where a format knows one
        number of a mask only, it is object_id and seg_id.
    sent_ids: a number for each sentence, unique in the set.
    """

    ref_id: int
    object_id: int
    seg_id: int
    mask: Rle
    sentences: tuple[str, ...]
    sent_ids: tuple[int, ...]
    category_id: int = NO_CATEGORY


@dataclass(frozen=True)
class PairImage:
    """One image of a set with its objects, in the set's order.

    image_id: see records.ImageRecord. name: path relative to the folder of images, with `/`. split: "train", "val", ...
    read: gives the encoded image file as it is; raises BadInputError.
    """

    image_id: str
    name: str
    height: int
    width: int
    split: str
    objects: tuple[PairObject, ...]
    read: Callable[[], bytes] = field(compare=False, repr=False)
