"""The formats by name: how each is read and written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pseudo_ris.errors import UserError
from pseudo_ris.formats.coco import read_coco, write_coco
from pseudo_ris.formats.etris import ANNS, is_serialized, read_anns, read_lmdb, write_anns, write_lmdb
from pseudo_ris.formats.grefcoco import read_grefcoco, write_grefcoco
from pseudo_ris.formats.outputs import OTHER_PLACE, new_place
from pseudo_ris.formats.parquet import read_parquet, write_parquet
from pseudo_ris.formats.refer_set import read_refer, write_refer
from pseudo_ris.formats.verify import AGAIN, Totals, compare
from pseudo_ris.formats.webdataset import read_webdataset, write_webdataset
from pseudo_ris.pairs.pair_set import PairImage

DATASET = "pseudo_ris"


@dataclass(frozen=True)
class Writing:
    """How a set is written.

    dataset: its name, where a format has one. copy_images: the images too, into `images`, where a format has no place for them.
    """

    dataset: str = DATASET
    copy_images: bool = False


@dataclass(frozen=True)
class Format:
    """read: a set at a path, its images in a folder. write: a set to a new path. holds_images: they are in it in any case.

    has_form: whether a set at a path that reads as wanted also has the form wanted, where reading does not depend on it.
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


def leaves_image_files(name: str, how: Writing) -> bool:
    """Whether a set in the format `name` has files that could be taken for input images."""
    return name == "etris" or (how.copy_images and not FORMATS[name].holds_images)


def write_verified(out: Path, source: Callable[[], Iterable[PairImage]], name: str, how: Writing) -> Totals:
    """Writes a set in the format `name`, reads it back and compares it with what was to be written; only then it is at `out`.

    source: gives the images, anew each time it is called. Raises UserError.
    """
    with new_place(out) as unverified:
        try:
            FORMATS[name].write(unverified, source(), how)
            return _compared(unverified, source, name, how)
        except UserError as error:
            raise UserError(str(error).replace(str(unverified), str(out))) from error


def check_existing(out: Path, source: Callable[[], Iterable[PairImage]], name: str, how: Writing) -> Totals:
    """Compares what is at `out` already with what is to be written. Raises UserError when it is something else.

    A run that was killed when it was done is found to be done.
    """
    try:
        totals = _compared(out, source, name, how)
    except UserError as error:
        reason = str(error).removesuffix(AGAIN)
        raise UserError(f"{out}: exists already and is not this set ({reason}); {OTHER_PLACE}") from error
    if not FORMATS[name].has_form(out, how):
        raise UserError(f"{out}: exists already, in another format or with another --dataset; {OTHER_PLACE}")
    return totals


def _compared(out: Path, source: Callable[[], Iterable[PairImage]], name: str, how: Writing) -> Totals:
    target = FORMATS[name]
    return compare(source(), target.read(out, None), str(out), with_bytes=target.holds_images or how.copy_images)
