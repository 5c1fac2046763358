"""The data classes that all exchange formats read and write: images, their objects, and the objects' sentences."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.io.boxes import box_of
from pseudo_ris.io.files import digest
from pseudo_ris.io.images import check_size
from pseudo_ris.io.safe_paths import check_name
from pseudo_ris.io.segmentation import decode_segmentation
from pseudo_ris.records import Box

NO_CATEGORY = 1
"""Category id of pseudo pairs: trainers read the number but do not use it."""
LARGEST_NUMBER = 2**63 - 1
"""Largest id: every format can store 64-bit integers."""
TRAIN, VAL = "train", "val"
SPLIT_NAME = re.compile(r"\w[\w.-]{0,63}")


@dataclass(frozen=True)
class Rle:
    """A mask as COCO's compressed run-length encoding (RLE). size: (height, width). counts: the text that COCO files contain.

    Masks read from files are encoded again with pycocotools, so equal masks have equal counts.
    """

    size: tuple[int, int]
    counts: str

    @classmethod
    def of(cls, mask: np.ndarray) -> Rle:
        """Encodes a mask, bool [H, W]."""
        encoded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
        return cls((int(mask.shape[0]), int(mask.shape[1])), encoded["counts"].decode("ascii"))

    @classmethod
    def of_segmentation(cls, segmentation: Any, height: int, width: int) -> Rle:
        """Encodes an untrusted COCO segmentation (see segmentation.decode_segmentation). Raises BadInputError."""
        check_size(height, width)
        return cls.of(decode_segmentation(segmentation, height, width))

    @property
    def segmentation(self) -> dict[str, Any]:
        """The value of `segmentation` in a COCO file."""
        return {"size": list(self.size), "counts": self.counts}

    def decode(self) -> np.ndarray:
        """Decodes the mask, bool [H, W]. Raises BadInputError when the counts do not match the size."""
        check_size(*self.size)
        return decode_segmentation(self.segmentation, *self.size)

    def box_and_area(self) -> tuple[Box, int]:
        """Returns the tight box (xyxy, half-open) and the area in pixels; (0, 0, 0, 0) for an empty mask.

        Raises BadInputError.
        """
        mask = self.decode()
        return (box_of(mask), int(mask.sum())) if mask.any() else ((0, 0, 0, 0), 0)


@dataclass(frozen=True)
class PairObject:
    """One object of an image with its expressions; REFER calls it a ref.

    ref_id: unique in the set: REFER's ref_id, the `index` of the pairs CSV.
    object_id: id of the mask, unique in the set: REFER's ann_id, ETRIS's segment_id. Refs with the same object_id share a mask.
    seg_id: id of the mask within its image: the name of its file in the folder of pseudo masks. Equal to object_id in formats
        that store only one id per mask.
    sent_ids: an id for each sentence, unique in the set.
    targets: object_ids of the masks whose union `mask` is; () if it is one mask or empty. Only gRefCOCO stores them, so objects
        that differ in them alone are equal.
    """

    ref_id: int
    object_id: int
    seg_id: int
    mask: Rle
    sentences: tuple[str, ...]
    sent_ids: tuple[int, ...]
    category_id: int = NO_CATEGORY
    targets: tuple[int, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class PairImage:
    """One image of a set with its objects, in the set's order.

    image_id: see records.ImageRecord. name: path relative to the folder of images, with `/`. split: "train", "val", ...
    read: returns the bytes of the encoded image file; raises BadInputError.
    """

    image_id: str
    name: str
    height: int
    width: int
    split: str
    objects: tuple[PairObject, ...]
    read: Callable[[], bytes] = field(compare=False, repr=False)


def check_image(image: PairImage) -> None:
    """Checks that every format can store the image and its objects, and that its paths stay inside the output folder.

    Raises BadInputError that names the field.
    """
    check_name(image.name)
    check_size(image.height, image.width)
    _check_text("image_id", image.image_id)
    if not SPLIT_NAME.fullmatch(image.split):
        raise BadInputError(f"split: {image.split[:40]!r} is not a valid name; use letters, digits, _ - and .")
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
            raise BadInputError(f"{name}: {str(number)[:40]!r} is not a 64-bit integer")
    if each.mask.size != (image.height, image.width):
        raise BadInputError(f"mask: size is {each.mask.size}, but the image's is {(image.height, image.width)}")
    if len(each.sent_ids) != len(each.sentences):
        raise BadInputError(f"sent_ids: {len(each.sent_ids)} ids for {len(each.sentences)} sentences")
    for sentence in each.sentences:
        _check_text("sentences", sentence)


def _check_text(name: str, text: Any) -> None:
    try:
        text.encode()
    except (AttributeError, UnicodeEncodeError) as error:
        raise BadInputError(f"{name}: {ascii(text)[:40]} is not text that UTF-8 can encode") from error


def checked_images(images: Iterable[PairImage], source: str) -> Iterator[PairImage]:
    """Yields the images after checking each one, by itself and against the earlier ones.

    Every (image, split) and ref_id occurs once, an image has one name and size, and refs with the same object_id share image,
    mask and seg_id. source: where the images come from, for error messages. Raises UserError.
    """
    seen = _Seen()
    for image in images:
        try:
            check_image(image)
            seen.add(image)
        except BadInputError as error:
            raise UserError(f"{source}, image {image.image_id!r:.80}: {error}; fix or remove the entry") from error
        yield image


class _Seen:
    """The ids and names seen so far, without the masks."""

    def __init__(self) -> None:
        self.places: set[tuple[str, str]] = set()
        self.images: dict[str, tuple[str, int, int]] = {}
        self.names: dict[str, str] = {}
        self.refs: set[int] = set()
        self.objects: dict[int, tuple[str, int, int]] = {}

    def add(self, image: PairImage) -> None:
        """Raises BadInputError."""
        if (image.image_id, image.split) in self.places:
            raise BadInputError(f"image_id: duplicate in split {image.split}")
        self.places.add((image.image_id, image.split))
        looks = image.name, image.height, image.width
        if self.images.setdefault(image.image_id, looks) != looks:
            raise BadInputError(f"image_id: used for both {looks} and {self.images[image.image_id]}")
        if self.names.setdefault(image.name, image.image_id) != image.image_id:
            raise BadInputError(f"name: {image.name!r:.80} is also the name of image {self.names[image.name]!r:.80}")
        for each in image.objects:
            if each.ref_id in self.refs:
                raise BadInputError(f"ref_id: {each.ref_id} is a duplicate")
            self.refs.add(each.ref_id)
            mask = image.image_id, each.seg_id, hash(each.mask)
            if self.objects.setdefault(each.object_id, mask) != mask:
                raise BadInputError(f"object_id: {each.object_id} is used for two masks, images or seg_ids")


def split_of(image_id: str, val_share: float, seed: int) -> str:
    """Returns "val" for a fraction `val_share` of all images and "train" for the others.

    The split depends on the seed and the id alone, so it stays the same when the set grows or is selected again.
    """
    hex_digits = 16  # of the digest: 64 random bits
    return VAL if int(digest(seed, image_id)[:hex_digits], 16) < val_share * 16**hex_digits else TRAIN


def with_splits(images: Iterable[PairImage], val_share: float, seed: int) -> Iterator[PairImage]:
    """Yields the images with the splits that `split_of` assigns. Raises UserError unless 0 <= val_share < 1."""
    if not 0 <= val_share < 1:
        raise UserError(f"--val-share {val_share}: must be 0 or more and less than 1")
    return (dataclasses.replace(image, split=split_of(image.image_id, val_share, seed)) for image in images)
