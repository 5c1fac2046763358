"""Reads RefCOCO-M (Moondream): RefCOCO's validation split with cleaned masks, Parquet files with the images inside.

RefCOCO-M is neither MaskRIS's `refcocom`, a mix of three sets, nor RefCOCOm, which is about parts of objects.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.formats.parquet import reading
from pseudo_ris.io.json_fields import entries_of, field
from pseudo_ris.pairs.pair_set import PairImage, PairObject, Rle, checked_images

KIND = "Parquet file of RefCOCO-M"
COLUMNS = ("image", "image_id", "file_name", "samples")


def read_refcoco_m(path: Path, images: Path | None = None) -> Iterator[PairImage]:
    """Yields the images of a set; its split is the first word of a file's name, such as `validation-00000-of-00002.parquet`.

    path: a file, or a folder that holds files at any depth. images: ignored; the files contain the images.
    Raises UserError that names the file, row and field.
    """
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{path}: has no Parquet file; give the folder of RefCOCO-M, or one of its files")
    sentences = count(1)
    return checked_images((image for file in files for image in _images_of(file, sentences)), str(path))


def _images_of(path: Path, sentences: Iterator[int]) -> Iterator[PairImage]:
    split, row = path.stem.partition("-")[0], 0
    with reading(path, KIND):
        file = pq.ParquetFile(path)
        missing = [name for name in COLUMNS if name not in file.schema_arrow.names]
    if missing:
        raise UserError(f"{path}: column {missing[0]} is missing; give a file of RefCOCO-M")
    for group in range(file.num_row_groups):
        with reading(path, KIND):
            entries = file.read_row_group(group, list(COLUMNS)).to_pylist()
        for entry in entries:
            yield _image(entry, split, f"{path}, row {row}", sentences)
            row += 1


def _image(entry: dict[str, Any], split: str, where: str, sentences: Iterator[int]) -> PairImage:
    samples = list(entries_of(entry, Path(where), "samples"))
    objects = tuple(_object(sample, place, sentences) for sample, place in samples)
    if not objects:
        raise UserError(f"{where}: samples: is empty; get the file again")
    height, width = objects[0].mask.size
    data = field(field(entry, "image", dict, where), "bytes", bytes, where)
    number, name = field(entry, "image_id", int, where), field(entry, "file_name", str, where)
    return PairImage(str(number), name, height, width, split, objects, partial(bytes, data))


def _object(sample: dict[str, Any], where: str, sentences: Iterator[int]) -> PairObject:
    number = field(sample, "id", int, where)
    mask = field(sample, "mask", dict, where)
    size, said = field(mask, "size", list, f"{where}: mask"), tuple(field(sample, "sentences", list, where))
    try:
        encoded = Rle.of_segmentation({"size": size, "counts": field(mask, "counts", str, f"{where}: mask")}, *size)
    except (BadInputError, TypeError) as error:
        raise UserError(f"{where}: mask: {error}; get the file again") from error
    return PairObject(number, number, number, encoded, said, tuple(next(sentences) for _ in said))
