"""Reads and writes a Parquet file with one row per image, image bytes included, for Hugging Face's `datasets`.

`load_dataset("parquet", data_files="pairs.parquet")` decodes `image`; `split` is a column to filter by.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.formats.outputs import image_bytes, new_place
from pseudo_ris.formats.samples import entry_of, image_of
from pseudo_ris.pairs.pair_set import PairImage, checked_images

GROUP_ROWS = 100
"""Maximum rows of a row group; one group is in memory at a time."""
GROUP_BYTES = 32 << 20
"""A row group also ends once its images reach this size."""

SAMPLE_TYPES: dict[str, pa.DataType] = {
    "id": pa.int64(),
    "object_id": pa.int64(),
    "seg_id": pa.int64(),
    "category_id": pa.int64(),
    "sent_ids": pa.list_(pa.int64()),
    "sentences": pa.list_(pa.string()),
    "bbox": pa.list_(pa.int64()),
    "mask": pa.struct({"size": pa.list_(pa.int64()), "counts": pa.string()}),
}
IMAGE_TYPE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
TYPES: dict[str, pa.DataType] = {
    "image": IMAGE_TYPE,
    "image_id": pa.string(),
    "file_name": pa.string(),
    "split": pa.string(),
    "height": pa.int64(),
    "width": pa.int64(),
    "samples": pa.list_(pa.struct(SAMPLE_TYPES)),
}
ENTRY_COLUMNS = [name for name in TYPES if name != "image"]


def read_parquet(path: Path, images: Path | None = None) -> Iterator[PairImage]:
    """Yields the images of a file from `write_parquet`, with one row group in memory at a time.

    images: ignored; the file contains the images. Raises UserError that names the file, row and field.
    """
    return checked_images(_read_rows(path), str(path))


def _read_rows(path: Path) -> Iterator[PairImage]:
    with reading(path):
        file = _open(path)
    row = 0
    stamp = path.stat().st_mtime_ns
    for group in range(file.num_row_groups):
        with reading(path):
            entries = file.read_row_group(group, ENTRY_COLUMNS).to_pylist()
        for position, entry in enumerate(entries):
            yield image_of(entry, partial(_read_image, path, stamp, group, position), f"{path}, row {row}")
            row += 1


@contextmanager
def reading(path: Path, kind: str = "Parquet file of pairs") -> Iterator[None]:
    """Turns any exception, which damaged files can cause in pyarrow, into a UserError. kind: what the file should be."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path}: not a {kind} ({reason}); get the file again") from error


def _open(path: Path) -> pq.ParquetFile:
    """Opens the file and checks its columns."""
    file = pq.ParquetFile(path, page_checksum_verification=True)
    schema = file.schema_arrow
    for name, kind in TYPES.items():
        if name not in schema.names or schema.field(name).type != kind:
            raise UserError(f"{path}: column {name} is missing or not {kind}; give a Parquet file of pairs")
    return file


def _read_image(path: Path, stamp: int, group: int, position: int) -> bytes:
    """Returns the image of one row. Raises BadInputError."""
    try:
        data = _image_column(path, stamp, group)[position]["bytes"].as_py()
    except Exception as error:  # see reading
        raise BadInputError(f"{path}, row group {group}: images cannot be read ({type(error).__name__})") from error
    if data is None:
        raise BadInputError(f"{path}, row {position} of row group {group}: has no image; get the file again")
    return data


@lru_cache(maxsize=2)
def _image_column(path: Path, stamp: int, group: int) -> pa.ChunkedArray:
    """Returns the images of a row group; caches two groups, since rows are read in order and two files are compared.

    stamp: modification time of the file, so that a rewritten file is read again.
    """
    return _open(path).read_row_group(group, ["image"])["image"]


def write_parquet(out: Path, images: Iterable[PairImage]) -> None:
    """Writes one file with one row group in memory at a time. Raises UserError."""
    schema = pa.schema(TYPES, metadata={"huggingface": json.dumps({"info": {"features": _features()}})})
    with new_place(out) as temporary, pq.ParquetWriter(temporary, schema, write_page_checksum=True) as writer:
        for rows in _groups(checked_images(images, str(out))):
            writer.write_table(pa.Table.from_pylist(rows, schema), row_group_size=GROUP_ROWS)


def _groups(images: Iterable[PairImage]) -> Iterator[list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    size = 0
    for image in images:
        data = image_bytes(image)
        rows.append(entry_of(image) | {"image": {"bytes": data, "path": image.name}})
        size += len(data)
        if len(rows) == GROUP_ROWS or size >= GROUP_BYTES:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows


def _features() -> dict[str, Any]:
    """Returns the columns as `datasets` describes them."""
    return {name: {"_type": "Image"} if kind == IMAGE_TYPE else _feature(kind) for name, kind in TYPES.items()}


def _feature(kind: pa.DataType) -> Any:
    if pa.types.is_list(kind):
        return [_feature(kind.value_type)]
    if pa.types.is_struct(kind):
        return {part.name: _feature(part.type) for part in kind}
    return {"dtype": str(kind), "_type": "Value"}
