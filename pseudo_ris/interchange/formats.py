"""The formats by name: how each is read and written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pseudo_ris.interchange.coco import read_coco, write_coco
from pseudo_ris.interchange.etris import read_anns, read_lmdb, write_anns, write_lmdb
from pseudo_ris.interchange.grefcoco import read_grefcoco, write_grefcoco
from pseudo_ris.interchange.pair_set import PairImage
from pseudo_ris.interchange.parquet import read_parquet, write_parquet
from pseudo_ris.interchange.refer_set import read_refer, write_refer
from pseudo_ris.interchange.shards_wds import read_webdataset, write_webdataset
from pseudo_ris.interchange.verify import Totals, compare

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
    """read: a set at a path, its images in a folder. write: a set to a new path. holds_images: they are in it in any case."""

    read: Callable[[Path, Path | None], Iterator[PairImage]]
    write: Callable[[Path, Iterable[PairImage], Writing], None]
    holds_images: bool = False


FORMATS: dict[str, Format] = {
    "refer": Format(read_refer, lambda out, images, how: write_refer(out, images, how.dataset, how.copy_images)),
    "grefcoco": Format(read_grefcoco, lambda out, images, how: write_grefcoco(out, images, how.dataset, how.copy_images)),
    "etris": Format(read_anns, lambda out, images, how: write_anns(out, images, how.dataset, how.copy_images)),
    "lmdb": Format(read_lmdb, lambda out, images, how: write_lmdb(out, images, "pyarrow"), holds_images=True),
    "lmdb-pickle": Format(read_lmdb, lambda out, images, how: write_lmdb(out, images, "pickle"), holds_images=True),
    "coco": Format(read_coco, lambda out, images, how: write_coco(out, images, how.copy_images)),
    "parquet": Format(read_parquet, lambda out, images, how: write_parquet(out, images), holds_images=True),
    "webdataset": Format(
        read_webdataset, lambda out, images, how: write_webdataset(out, images, how.dataset), holds_images=True
    ),
}


def leaves_image_files(name: str, how: Writing) -> bool:
    """Whether a set in the format `name` has files that could be taken for input images."""
    return name == "etris" or (how.copy_images and not FORMATS[name].holds_images)


def write_verified(out: Path, source: Callable[[], Iterable[PairImage]], name: str, how: Writing) -> Totals:
    """Writes a set in the format `name`, reads it back and compares it with what was to be written.

    source: gives the images, anew each time it is called. Raises UserError.
    """
    target = FORMATS[name]
    target.write(out, source(), how)
    return compare(source(), target.read(out, None), str(out), with_bytes=target.holds_images or how.copy_images)
