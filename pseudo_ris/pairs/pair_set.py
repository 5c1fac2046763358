"""Mask-expression pairs as every exchange format gives and takes them: images, their objects, the objects' sentences."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.io.boxes import box_of
from pseudo_ris.io.images import check_size
from pseudo_ris.io.safe_paths import check_name
from pseudo_ris.io.segmentation import decode_segmentation
from pseudo_ris.records import Box

NO_CATEGORY = 1
"""Category id of pseudo pairs: trainers read a number there and use it for nothing."""
LARGEST_NUMBER = 2**63 - 1
"""Of an id, so that every format can hold it."""
SPLIT_NAME = re.compile(r"\w[\w.-]{0,63}")


@dataclass(frozen=True)
class Rle:
    """A mask as COCO's compressed run lengths. size: (height, width). counts: the text COCO files hold.

    One mask has one text: those made here are as pycocotools encodes the mask, whatever was read.
    """

    size: tuple[int, int]
    counts: str

    @classmethod
    def of(cls, mask: np.ndarray) -> Rle:
        """The run lengths of a mask, bool [H, W]."""
        encoded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
        return cls((int(mask.shape[0]), int(mask.shape[1])), encoded["counts"].decode("ascii"))

    @classmethod
    def of_segmentation(cls, segmentation: Any, height: int, width: int) -> Rle:
        """Of a COCO segmentation from anywhere (see segmentation.decode_segmentation). Raises BadInputError."""
        check_size(height, width)
        return cls.of(decode_segmentation(segmentation, height, width))

    @property
    def segmentation(self) -> dict[str, Any]:
        """As it stands in a COCO file."""
        return {"size": list(self.size), "counts": self.counts}

    def decode(self) -> np.ndarray:
        """The mask, bool [H, W]. Raises BadInputError when the counts do not fill the size."""
        check_size(*self.size)
        return decode_segmentation(self.segmentation, *self.size)

    def box_and_area(self) -> tuple[Box, int]:
        """The tight box and the number of pixels; an empty mask has the box (0, 0, 0, 0). Raises BadInputError."""
        mask = self.decode()
        return (box_of(mask), int(mask.sum())) if mask.any() else ((0, 0, 0, 0), 0)


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


def check_image(image: PairImage) -> None:
    """Whether every format can hold the image and what is said of it, and no path made from it leads elsewhere.

    Raises BadInputError that names the field.
    """
    check_name(image.name)
    check_size(image.height, image.width)
    _check_text("image_id", image.image_id)
    if not SPLIT_NAME.fullmatch(image.split):
        raise BadInputError(f"split: {image.split[:40]!r} is no name; letters, digits, _ - and . are")
    for each in image.objects:
        try:
            _check_object(each, image)
        except BadInputError as error:
            raise BadInputError(f"ref {str(each.ref_id)[:40]}: {error}") from error


def _check_object(each: PairObject, image: PairImage) -> None:
    numbers = {"ref_id": each.ref_id, "object_id": each.object_id, "seg_id": each.seg_id, "category_id": each.category_id}
    numbers |= {f"sent_ids[{position}]": number for position, number in enumerate(each.sent_ids)}
    for name, number in numbers.items():
        if type(number) is not int or abs(number) > LARGEST_NUMBER:
            raise BadInputError(f"{name}: {str(number)[:40]!r} is no whole number of 64 bits")
    if each.mask.size != (image.height, image.width):
        raise BadInputError(f"mask: of size {each.mask.size}, the image's is {(image.height, image.width)}")
    if len(each.sent_ids) != len(each.sentences):
        raise BadInputError(f"sent_ids: {len(each.sent_ids)} of them, but {len(each.sentences)} sentences")
    for sentence in each.sentences:
        _check_text("sentences", sentence)


def _check_text(name: str, text: Any) -> None:
    try:
        text.encode()
    except (AttributeError, UnicodeEncodeError) as error:
        raise BadInputError(f"{name}: {ascii(text)[:40]} is no text that UTF-8 can hold") from error


def sound_images(images: Iterable[PairImage], source: str) -> Iterator[PairImage]:
    """The images as they come, each checked by itself and against those before.

    Every (image, split) comes once, an image has one name and size, a ref_id is there once, and refs of one object_id share
    image, mask and seg_id. source: what an error calls the place the images come from. Raises UserError.
    """
    seen = _Seen()
    for image in images:
        try:
            check_image(image)
            seen.add(image)
        except BadInputError as error:
            raise UserError(f"{source}, image {image.image_id!r:.80}: {error}; mend or remove the entry") from error
        yield image


class _Seen:
    """What a set has held so far, in a form that is small beside its masks."""

    def __init__(self) -> None:
        self.places: set[tuple[str, str]] = set()
        self.images: dict[str, tuple[str, int, int]] = {}
        self.names: dict[str, str] = {}
        self.refs: set[int] = set()
        self.objects: dict[int, tuple[str, int, int]] = {}

    def add(self, image: PairImage) -> None:
        """Raises BadInputError."""
        if (image.image_id, image.split) in self.places:
            raise BadInputError(f"image_id: is there twice in split {image.split}")
        self.places.add((image.image_id, image.split))
        looks = image.name, image.height, image.width
        if self.images.setdefault(image.image_id, looks) != looks:
            raise BadInputError(f"image_id: stands for {looks} and for {self.images[image.image_id]}")
        if self.names.setdefault(image.name, image.image_id) != image.image_id:
            raise BadInputError(f"name: {image.name!r:.80} is also that of image {self.names[image.name]!r:.80}")
        for each in image.objects:
            if each.ref_id in self.refs:
                raise BadInputError(f"ref_id: {each.ref_id} is there twice")
            self.refs.add(each.ref_id)
            mask = image.image_id, each.seg_id, hash(each.mask)
            if self.objects.setdefault(each.object_id, mask) != mask:
                raise BadInputError(f"object_id: {each.object_id} has two masks, images or seg_ids")
