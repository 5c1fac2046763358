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
"""Most rows of a row group, which is what is read at once ..."""
GROUP_BYTES = 32 << 20
"""... and what they may come to before the group is closed."""

FILES = pa.list_(pa.struct({"name": pa.string(), "data": pa.binary()}))
TYPES = {"image_id": pa.string(), "image_name": pa.string(), "key": pa.string(), "text": pa.string(), "files": FILES}
SCHEMA = pa.schema(TYPES)

IdsAndKeys = list[tuple[str, str]]
"""Image id and key of each row of a shard, in order."""


class DamagedShardError(BadInputError):
    """A shard, or a part of it, is not what was written."""


@dataclass(frozen=True)
class Row:
    """What one image came to: all that its own files hold.

    key: of what the result was made from. text: the JSON file's content. files: of masks, name and content of each PNG.
    """

    image_id: str
    image_name: str
    key: str
    text: str
    files: tuple[tuple[str, bytes], ...] = ()

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        return len(self.text) + sum(len(data) for _, data in self.files)


def write_shard(target: Path, rows: Iterable[Row]) -> IdsAndKeys:
    """Writes a shard, a row group in memory at a time; it appears by rename when it is safely on disk. No rows, no shard.

    Its bytes follow from the rows alone. What `rows` raises passes, and nothing is written. Raises UserError.
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
    """Image id and key of each row. Raises DamagedShardError, and UserError when the disk cannot be read."""
    with _reading(path):
        path.open("rb").close()  # what may not be read is not damaged; pyarrow does not tell the two apart
        file = _open(path)
        table = file.read(["image_id", "key"], use_threads=False)
        if len(table) != file.metadata.num_rows:
            raise ValueError("rows are missing")
        return list(zip(table["image_id"].to_pylist(), table["key"].to_pylist(), strict=True))


def count_of(path: Path) -> int:
    """Rows of a shard by what its end says, 0 when it is damaged."""
    try:
        with _reading(path):
            return _open(path).metadata.num_rows
    except DamagedShardError:
        return 0


def read_rows(path: Path) -> Iterator[Row]:
    """All rows in order, a row group in memory at a time; none where there is no file. Raises as `read_group`."""
    if path.exists():
        with _reading(path):
            groups = _open(path).num_row_groups
        for group in range(groups):
            yield from read_group(path, group)


def read_group_of(path: Path, row: int) -> tuple[int, list[Row]]:
    """The row group that the row of this number is in, and the number of its first row. Raises as `read_group`."""
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
    """The rows of a row group. Raises DamagedShardError, and UserError when the disk cannot be read."""
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
    """Turns what pyarrow raises on damaged files, which is nearly anything, into a DamagedShardError."""
    try:
        yield
    except (UserError, DamagedShardError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno:  # the system's own; damage has no number
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
    """Waits until the disk has it: files that it replaces are removed next."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
