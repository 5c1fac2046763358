"""Assigns images to shards: shard k of size N has those of the listed images k N to (k + 1) N - 1 that have a result.

Images with a result that are no longer listed are in shards of their own.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path

from pseudo_ris.errors import UserError
from pseudo_ris.io.files import prepare_folder, temporary_name, writing
from pseudo_ris.records import ImageRecord
from pseudo_ris.storage.compaction.archive import Archive, earlier_name, shard_paths
from pseudo_ris.storage.compaction.fingerprints import StampIndex, Stamps
from pseudo_ris.storage.compaction.rows import DamagedShardError, IdsAndKeys, Row, read_ids_and_keys, write_shard

UNLISTED = "unlisted-"


class Layout:
    """The listed images in blocks of `size`. If two images share an id, it belongs to the first."""

    def __init__(self, records: Sequence[ImageRecord], size: int) -> None:
        self.size = size
        self._ids = [record.image_id for record in records]
        self._places: dict[str, int] = {}
        for place, image_id in enumerate(self._ids):
            self._places.setdefault(image_id, place)

    def __len__(self) -> int:
        return len(self._ids)

    def place(self, image_id: str) -> int | None:
        """Returns the position of the image in the list, or None."""
        return self._places.get(image_id)

    def block_of(self, image_id: str) -> int:
        """Returns the block of a listed image."""
        return self._places[image_id] // self.size

    def blocks(self) -> range:
        """Returns the numbers of all blocks."""
        return range(-(-len(self._ids) // self.size))

    def image_ids(self, block: int) -> list[str]:
        """Returns the images of a block, in order, each once."""
        start = block * self.size
        ids = self._ids[start : start + self.size]
        return [image_id for place, image_id in enumerate(ids, start) if self._places[image_id] == place]

    def fits(self, shard: str, rows: IdsAndKeys) -> bool:
        """Returns True if a shard's rows belong to it and are in order."""
        places = [self._places.get(image_id, -1) for image_id, _ in rows]
        if shard.startswith(UNLISTED):
            return max(places, default=-1) < 0
        first = int(shard) * self.size if shard.isdecimal() else -1
        ends = [first - 1, *places, first + self.size]
        return first >= 0 and all(before < after for before, after in pairwise(ends))


def shard_name(block: int) -> str:
    """Returns the name of a block's shard, without suffix."""
    return f"{block:06d}"


def shard_path(folder: Path, name: str) -> Path:
    """Returns the path of a shard."""
    return folder / f"{name}.parquet"


def recover(folder: Path) -> None:
    """Completes what a killed run began, so that `folder` holds complete shards of one layout. Raises UserError."""
    earlier = earlier_name(folder)
    with writing(folder):
        if earlier.exists():
            if folder.exists():
                shutil.rmtree(earlier)
            else:
                earlier.rename(folder)
    if folder.exists():
        prepare_folder(folder)


def whole_shards(folder: Path) -> Iterator[tuple[str, IdsAndKeys]]:
    """Yields name and rows of each shard. Removes a shard that was cut short or overwritten, since it cannot be repaired."""
    for path in shard_paths(folder):
        try:
            rows = read_ids_and_keys(path)
        except DamagedShardError:
            print(f"{path} is damaged and is removed; what it held is made again", file=sys.stderr)
            with writing(path):
                path.unlink()
            continue
        yield path.stem, rows


def relay(folder: Path, layout: Layout, stamps: Stamps) -> None:
    """Writes all rows into new shards of this layout, which replace the old ones by rename. Raises UserError.

    stamps: known of the listed images, which go into the new index.
    """
    archive, new, earlier = Archive(folder), temporary_name(folder), earlier_name(folder)
    with writing(folder):
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        index = StampIndex(new)
        try:
            for block in layout.blocks():
                rows = write_shard(shard_path(new, shard_name(block)), _found(archive, layout.image_ids(block)))
                if rows:
                    index.add(shard_name(block), rows, [stamps[layout.place(image_id)] for image_id, _ in rows])
            for number, ids in enumerate(_batches(_unlisted(archive, layout), layout.size)):
                write_shard(shard_path(new, f"{UNLISTED}{number:06d}"), _found(archive, ids))
        except DamagedShardError as error:
            raise UserError(str(error)) from error
        folder.rename(earlier)
        new.rename(folder)
        shutil.rmtree(earlier)


def _found(archive: Archive, image_ids: Iterable[str]) -> Iterator[Row]:
    return (row for row in map(archive.find, image_ids) if row is not None)


def _unlisted(archive: Archive, layout: Layout) -> Iterator[str]:
    return (image_id for image_id in archive.image_ids() if layout.place(image_id) is None)


def _batches(items: Iterator[str], size: int) -> Iterator[list[str]]:
    while batch := list(islice(items, size)):
        yield batch
