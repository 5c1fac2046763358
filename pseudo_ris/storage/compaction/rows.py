"""A finished image as a row, and the Parquet files that hold many of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.io.files import temporary_name, writing

GROUP_ROWS = 100
"""Largest number of rows of a row group, which is read at once."""
GROUP_BYTES = 32 << 20
"""Bytes after which a row group is closed."""

FILES = pa.list_(pa.struct({"name": pa.string(), "data": pa.binary()}))
TYPES = {"image_id": pa.string(), "image_name": pa.string(), "key": pa.string(), "text": pa.string(), "files": FILES}
SCHEMA = pa.schema(TYPES)

IdsAndKeys = list[tuple[str, str]]
"""Image id and key of each row of a shard, in order."""


class DamagedShardError(BadInputError):
    """A shard or a part of it is damaged."""


@dataclass(frozen=True)
class Row:
    """The result of one image: the content of its own files.

    key: of what the result was made from. text: the JSON file's content. files: of masks, name and content of each PNG.
    """

    image_id: str
    image_name: str
    key: str
    text: str
    files: tuple[tuple[str, bytes], ...] = ()

    @property
    def size(self) -> int:
        """Approximate size in bytes."""
        return len(self.text) + sum(len(data) for _, data in self.files)


def write_shard(target: Path, rows: Iterable[Row]) -> IdsAndKeys:
    """Writes a shard with one row group in memory; it is renamed into place when it is on disk. Without rows there is no shard.

    The bytes depend on the rows alone. If `rows` raises, nothing is written. Raises UserError.
    """
    temporary = temporary_name(target)
    written: IdsAndKeys = []
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with pq.ParquetWriter(temporary, SCHEMA, compression="zstd", write_page_checksum=True) as writer:
                for group in _groups(rows):
                    writer.write_table(_table_of(group), row_group_size=GROUP_ROWS)
                    written += [(row.image_id, row.key) for row in group]
            if written:
                _sync(temporary)
                temporary.replace(target)
                _sync(target.parent)
        finally:
            temporary.unlink(missing_ok=True)
    return written


def read_ids_and_keys(path: Path) -> IdsAndKeys:
    """Returns image id and key of each row. Raises DamagedShardError, and UserError when the disk cannot be read."""
    with _reading(path):
        path.open("rb").close()  # an unreadable file is not a damaged one; pyarrow does not tell the two apart
        file = _open(path)
        table = file.read(["image_id", "key"], use_threads=False)
        if len(table) != file.metadata.num_rows:
            raise ValueError("rows are missing")
        return list(zip(table["image_id"].to_pylist(), table["key"].to_pylist(), strict=True))


def count_of(path: Path) -> int:
    """Returns the number of rows according to the footer; 0 for a damaged shard."""
    try:
        with _reading(path):
            return _open(path).metadata.num_rows
    except DamagedShardError:
        return 0


def read_rows(path: Path) -> Iterator[Row]:
    """Yields all rows in order, with one row group in memory; none if there is no file. Raises as `read_group`."""
    if path.exists():
        with _reading(path):
            groups = _open(path).num_row_groups
        for group in range(groups):
            yield from read_group(path, group)


def read_group_of(path: Path, row: int) -> tuple[int, list[Row]]:
    """Returns the row group that contains a row: number of its first row, and its rows. Raises as `read_group`."""
    with _reading(path):
        metadata = _open(path).metadata
    first = 0
    for group in range(metadata.num_row_groups):
        count = metadata.row_group(group).num_rows
        if row < first + count:
            return first, read_group(path, group)
        first += count
    raise _damaged(path, f"has no row {row}")


def read_group(path: Path, group: int) -> list[Row]:
    """Returns the rows of a row group. Raises DamagedShardError, and UserError when the disk cannot be read."""
    with _reading(path):
        table = _open(path).read_row_group(group, list(TYPES), use_threads=False)
        return [_row_of(entry) for entry in table.to_pylist()]


def _open(path: Path) -> pq.ParquetFile:
    file = pq.ParquetFile(path, page_checksum_verification=True)
    if file.schema_arrow.remove_metadata() != SCHEMA:
        raise ValueError(f"its columns are not {', '.join(TYPES)}")
    return file


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns any exception that pyarrow raises on damaged files into a DamagedShardError."""
    try:
        yield
    except (UserError, DamagedShardError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno:  # an error of the operating system; damage has no errno
            raise UserError(f"{path}: cannot be read ({error.strerror}); check the disk, then run the command again") from error
        raise _damaged(path, " ".join(str(error).split())[:200] or type(error).__name__) from error


def _damaged(path: Path, reason: str) -> DamagedShardError:
    return DamagedShardError(
        f"{path}: damaged shard ({reason}); remove the file and run the stage that wrote it again, which makes its images anew"
    )


def _groups(rows: Iterable[Row]) -> Iterator[list[Row]]:
    group: list[Row] = []
    size = 0
    for row in rows:
        group.append(row)
        size += row.size
        if len(group) == GROUP_ROWS or size >= GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _table_of(rows: list[Row]) -> pa.Table:
    return pa.table(
        {
            "image_id": [row.image_id for row in rows],
            "image_name": [row.image_name for row in rows],
            "key": [row.key for row in rows],
            "text": [row.text for row in rows],
            "files": [[{"name": name, "data": data} for name, data in row.files] for row in rows],
        },
        SCHEMA,
    )


def _row_of(entry: dict) -> Row:
    files = tuple((file["name"], file["data"]) for file in entry.pop("files"))
    return Row(**entry, files=files)


def _sync(path: Path) -> None:
    """Waits until the file is on disk, since the files that it replaces are removed next."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
