"""What was written is read back and compared with what was to be written."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest

from pseudo_ris.errors import UserError
from pseudo_ris.formats.outputs import image_bytes
from pseudo_ris.pairs.pair_set import PairImage, PairObject

AGAIN = "; write it again, and report this"
"""What is to be done about a difference right after writing."""


@dataclass
class Totals:
    """What a set holds. images: each counted once, whatever splits it is in."""

    images: int = 0
    objects: int = 0
    sentences: int = 0

    def __str__(self) -> str:
        return f"{self.images} images, {self.objects} objects, {self.sentences} sentences"


def compare(wanted: Iterable[PairImage], found: Iterable[PairImage], out: str, with_bytes: bool) -> Totals:
    """Compares two sets image by image and counts what is in them. with_bytes: the encoded images too.

    out: what an error calls the place of `found`. Raises UserError that names the first image and field that differ.
    """
    totals = Totals()
    ids: set[str] = set()
    for image, read in zip_longest(wanted, found):
        if image is None or read is None:
            place, state = (read, "is there, but was not written") if image is None else (image, "is missing")
            raise _difference(out, place, state)
        if field := _first_difference(image, read):
            raise _difference(out, image, f"{field} is not what was written")
        if with_bytes and image_bytes(image) != image_bytes(read):
            raise _difference(out, image, "its bytes are not what was written")
        ids.add(image.image_id)
        totals.objects += len(image.objects)
        totals.sentences += sum(len(each.sentences) for each in image.objects)
    totals.images = len(ids)
    return totals


def _difference(out: str, image: PairImage, what: str) -> UserError:
    return UserError(f"{out}, image {image.image_id!r:.80}, split {image.split}: {what}{AGAIN}")


def _first_difference(image: PairImage, read: PairImage) -> str | None:
    """The field in which two images differ, with the ref in which they do."""
    for field in dataclasses.fields(PairImage):
        if field.compare and field.name != "objects" and getattr(image, field.name) != getattr(read, field.name):
            return field.name
    if len(image.objects) != len(read.objects):
        return "objects"
    for each, other in zip(image.objects, read.objects, strict=True):
        for field in dataclasses.fields(PairObject):
            if getattr(each, field.name) != getattr(other, field.name):
                return f"{field.name} of ref {each.ref_id}"
    return None
