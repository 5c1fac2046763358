"""The exchange formats by name, and writing with verification: every export is read back and compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from pseudo_ris.errors import UserError
from pseudo_ris.formats.coco import read_coco, write_coco
from pseudo_ris.formats.etris import ANNS, is_serialized, read_anns, read_lmdb, write_anns, write_lmdb
from pseudo_ris.formats.grefcoco import read_grefcoco, write_grefcoco
from pseudo_ris.formats.outputs import OTHER_PLACE, image_bytes, new_place
from pseudo_ris.formats.parquet import read_parquet, write_parquet
from pseudo_ris.formats.phrasecut import read_phrasecut
from pseudo_ris.formats.refcoco_m import read_refcoco_m
from pseudo_ris.formats.refer_set import read_refer, write_refer
from pseudo_ris.formats.webdataset import read_webdataset, write_webdataset
from pseudo_ris.pairs.pair_set import PairImage, PairObject

DATASET = "pseudo_ris"
REPORT_IT = "; this is a bug: please report it"
"""Remedy for a difference right after writing."""


@dataclass(frozen=True)
class Writing:
    """Options for writing a set.

    dataset: its name, for formats that store one. copy_images: also copy the images to `images`, for formats without images.
    """

    dataset: str = DATASET
    copy_images: bool = False


@dataclass(frozen=True)
class Format:
    """How a format is read and written.

    read: (path, folder of images) -> images. write: (new path, images, options). holds_images: the format always embeds images.
    has_form: (path, options) -> True if an existing set, whose content matches, was also written with these options.
    """

    read: Callable[[Path, Path | None], Iterator[PairImage]]
    write: Callable[[Path, Iterable[PairImage], Writing], None]
    holds_images: bool = False
    has_form: Callable[[Path, Writing], bool] = lambda out, how: True


FORMATS: dict[str, Format] = {
    "refer": Format(
        read_refer,
        lambda out, images, how: write_refer(out, images, how.dataset, how.copy_images),
        has_form=lambda out, how: (out / how.dataset).is_dir(),
    ),
    "grefcoco": Format(
        read_grefcoco,
        lambda out, images, how: write_grefcoco(out, images, how.dataset, how.copy_images),
        has_form=lambda out, how: (out / how.dataset).is_dir(),
    ),
    "etris": Format(
        read_anns,
        lambda out, images, how: write_anns(out, images, how.dataset, how.copy_images),
        has_form=lambda out, how: (out / ANNS / how.dataset).is_dir(),
    ),
    "lmdb": Format(
        read_lmdb,
        lambda out, images, how: write_lmdb(out, images, "pyarrow"),
        holds_images=True,
        has_form=lambda out, how: is_serialized(out, "pyarrow"),
    ),
    "lmdb-pickle": Format(
        read_lmdb,
        lambda out, images, how: write_lmdb(out, images, "pickle"),
        holds_images=True,
        has_form=lambda out, how: is_serialized(out, "pickle"),
    ),
    "coco": Format(read_coco, lambda out, images, how: write_coco(out, images, how.copy_images)),
    "parquet": Format(read_parquet, lambda out, images, how: write_parquet(out, images), holds_images=True),
    "webdataset": Format(
        read_webdataset,
        lambda out, images, how: write_webdataset(out, images, how.dataset),
        holds_images=True,
        has_form=lambda out, how: any(out.glob(f"{how.dataset}-*.tar")),
    ),
}

Reader = Callable[[Path, Path | None], Iterator[PairImage]]
SOURCES: dict[str, Reader] = {
    **{name: form.read for name, form in FORMATS.items()},
    "phrasecut": read_phrasecut,
    "refcoco-m": read_refcoco_m,
}
"""The formats that are read: all that are written, and published sets that are only read."""


def leaves_image_files(name: str, how: Writing) -> bool:
    """True if a set in the format `name` contains files that could be mistaken for input images."""
    return name == "etris" or (how.copy_images and not FORMATS[name].holds_images)


def write_verified(out: Path, source: Callable[[], Iterable[PairImage]], name: str, how: Writing) -> Totals:
    """Writes a set in the format `name`, reads it back, compares it with the input, and only then moves it to `out`.

    source: returns a fresh iterable of the images on each call. Raises UserError.
    """
    with new_place(out) as unverified:
        try:
            FORMATS[name].write(unverified, source(), how)
            return _compared(unverified, source, name, how)
        except UserError as error:
            raise UserError(str(error).replace(str(unverified), str(out))) from error


def check_existing(out: Path, source: Callable[[], Iterable[PairImage]], name: str, how: Writing) -> Totals:
    """Compares an existing `out` with the input, so that a repeated export counts as done. Raises UserError when it differs."""
    try:
        totals = _compared(out, source, name, how)
    except UserError as error:
        reason = str(error).removesuffix(REPORT_IT)
        raise UserError(f"{out}: already exists and is not this set ({reason}); {OTHER_PLACE}") from error
    if not FORMATS[name].has_form(out, how):
        raise UserError(f"{out}: already exists in another format or with another --dataset; {OTHER_PLACE}")
    return totals


def _compared(out: Path, source: Callable[[], Iterable[PairImage]], name: str, how: Writing) -> Totals:
    target = FORMATS[name]
    return compare(source(), target.read(out, None), str(out), with_bytes=target.holds_images or how.copy_images)


@dataclass
class Totals:
    """The size of a set. images: number of distinct images over all splits."""

    images: int = 0
    objects: int = 0
    sentences: int = 0

    def __str__(self) -> str:
        return f"{self.images} images, {self.objects} objects, {self.sentences} sentences"


def compare(wanted: Iterable[PairImage], found: Iterable[PairImage], out: str, with_bytes: bool) -> Totals:
    """Compares two sets image by image. with_bytes: compare the encoded images too. out: the place of `found`, for errors.

    Returns the totals. Raises UserError that names the first image and field that differ.
    """
    totals = Totals()
    ids: set[str] = set()
    for image, read in zip_longest(wanted, found):
        if image is None or read is None:
            place, state = (read, "was not in the input") if image is None else (image, "is missing")
            raise _difference(out, place, state)
        if field := _first_difference(image, read):
            raise _difference(out, image, f"{field} differs from the input")
        if with_bytes and image_bytes(image) != image_bytes(read):
            raise _difference(out, image, "its bytes differ from the input")
        ids.add(image.image_id)
        totals.objects += len(image.objects)
        totals.sentences += sum(len(each.sentences) for each in image.objects)
    totals.images = len(ids)
    return totals


def _difference(out: str, image: PairImage, what: str) -> UserError:
    return UserError(f"{out}, image {image.image_id!r:.80}, split {image.split}: {what}{REPORT_IT}")


def _first_difference(image: PairImage, read: PairImage) -> str | None:
    """Returns the first field in which two images differ, or None."""
    for field in dataclasses.fields(PairImage):
        if field.compare and field.name != "objects" and getattr(image, field.name) != getattr(read, field.name):
            return field.name
    if len(image.objects) != len(read.objects):
        return "objects"
    for each, other in zip(image.objects, read.objects, strict=True):
        for field in dataclasses.fields(PairObject):
            if field.compare and getattr(each, field.name) != getattr(other, field.name):
                return f"{field.name} of ref {each.ref_id}"
    return None
