"""Reads single images from a folder of shards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import pyarrow as pa

from pseudo_ris.storage.compaction.rows import DamagedShardError, Row, count_of, read_group_of, read_ids_and_keys

SHARDS = "shards"
HELD_GROUPS = 2


def current_folder(folder: Path) -> Path:
    """Returns the folder with the shards: `folder`, or its earlier name if a relayout was killed between its renames."""
    return folder if folder.exists() else earlier_name(folder)


def earlier_name(folder: Path) -> Path:
    """Returns the name that the folder has for a moment during a relayout."""
    return folder.with_name(f"{folder.name}.old")


def shard_paths(folder: Path) -> list[Path]:
    """Returns the shards in a folder: first those of the listed images, by number, then those of images no longer listed."""
    return sorted(folder.glob("*.parquet"))


def count_rows(folder: Path) -> int:
    """Counts the images in a folder of shards, which need not exist. Reads only the file footers; skips damaged files."""
    return sum(count_of(path) for path in shard_paths(current_folder(folder)))


class Archive:
    """The images in a folder of shards, which need not exist. Keeps a few row groups in memory.

    The positions are read once, about 100 bytes per image. Damaged shards are skipped, so their images count as not made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._table: _Table | None = None
        self._held: dict[tuple[Path, int], list[Row]] = {}

    def key_of(self, image_id: str) -> str | None:
        """Returns the key of an image's row, or None."""
        table = self._read_table()
        number = table.find(image_id)
        return None if number is None else table.keys[number].as_py()

    def find(self, image_id: str) -> Row | None:
        """Returns an image's row, or None. Raises DamagedShardError, and UserError when the disk cannot be read."""
        row = self._find(image_id)
        if row is None or row.image_id == image_id:
            return row
        self.forget()  # the shard was rewritten
        return self._find(image_id)

    def image_ids(self) -> Iterator[str]:
        """Yields the ids of all rows, shard by shard."""
        return (image_id.as_py() for image_id in self._read_table().ids)

    def forget(self) -> None:
        """Drops the positions, so that they are read again after shards were written."""
        self._table = None
        self._held.clear()

    def _find(self, image_id: str) -> Row | None:
        table = self._read_table()
        number = table.find(image_id)
        return None if number is None else self._row(*table.place_of(number))

    def _row(self, path: Path, row: int) -> Row:
        for (held, first), rows in self._held.items():
            if held == path and first <= row < first + len(rows):
                return rows[row - first]
        first, rows = read_group_of(path, row)
        if len(self._held) == HELD_GROUPS:
            del self._held[next(iter(self._held))]
        self._held[path, first] = rows
        return rows[row - first]

    def _read_table(self) -> _Table:
        if self._table is None:
            self._table = _Table.of(shard_paths(current_folder(self.folder)))
        return self._table


@dataclass(frozen=True)
class _Table:
    """The position of each image: shard and row.

    paths: of the shards. ends: int64 [S], rows up to the end of each. ids, keys: strings [N], of all rows in turn.
    hashes: int64 [N], of the ids, ascending. order: int64 [N], the row of each hash.
    """

    paths: list[Path]
    ends: np.ndarray
    ids: pa.Array
    keys: pa.Array
    hashes: np.ndarray
    order: np.ndarray

    @classmethod
    def of(cls, paths: list[Path]) -> _Table:
        whole: list[Path] = []
        counts: list[int] = []
        # Not pa.array([]): it imports pandas, .4 s of each run that has no shards.
        ids, keys, hashes = [pa.nulls(0, pa.string())], [pa.nulls(0, pa.string())], [np.zeros(0, np.int64)]
        for path in paths:
            with suppress(DamagedShardError):
                listed = read_ids_and_keys(path)
                whole.append(path)
                counts.append(len(listed))
                ids.append(pa.array([image_id for image_id, _ in listed], pa.string()))
                keys.append(pa.array([key for _, key in listed], pa.string()))
                hashes.append(np.array([hash(image_id) for image_id, _ in listed], np.int64))
        unordered = np.concatenate(hashes)
        order = np.argsort(unordered, kind="stable")
        ends = np.array(list(accumulate(counts)), np.int64)
        return cls(whole, ends, pa.concat_arrays(ids), pa.concat_arrays(keys), unordered[order], order)

    def find(self, image_id: str) -> int | None:
        """Returns the number of the image's row among all rows, or None."""
        if not len(self.hashes):
            return None
        wanted = hash(image_id)
        for place in range(int(np.searchsorted(self.hashes, wanted)), len(self.hashes)):
            if self.hashes[place] != wanted:
                return None
            number = int(self.order[place])
            if self.ids[number].as_py() == image_id:
                return number
        return None

    def place_of(self, number: int) -> tuple[Path, int]:
        """Returns the shard of a row and its number there."""
        shard = int(np.searchsorted(self.ends, number, "right"))
        first = int(self.ends[shard - 1]) if shard else 0
        return self.paths[shard], number - first
