"""Moves the finished images of a run from their own files into shards during the run, one block of images at a time."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from pseudo_ris.errors import UserError
from pseudo_ris.records import ImageRecord
from pseudo_ris.runtime.image_loop import Outcome
from pseudo_ris.runtime.shares import Shard
from pseudo_ris.storage.compaction.archive import Archive, shard_paths
from pseudo_ris.storage.compaction.fingerprints import NO_STAMP, StampIndex, Stamps
from pseudo_ris.storage.compaction.layout import Layout, recover, relay, shard_name, shard_path, whole_shards
from pseudo_ris.storage.compaction.rows import DamagedShardError, IdsAndKeys, Row, read_ids_and_keys, read_rows, write_shard

StampOf = Callable[[ImageRecord], bytes]
"""Returns the current stamp of an image; NO_STAMP if that needs reading the image."""


class LooseStore(Protocol):
    """A store of results with files for each image. If an image has both files and a row, the files count."""

    archive: Archive

    def loose_ids(self) -> set[str]:
        """Returns the ids of images that have files, complete or not."""

    def loose_row(self, image_id: str) -> Row | None:
        """Returns the content of an image's files; None unless they are complete."""

    def remove_loose(self, image_id: str) -> None:
        """Removes an image's files. An interruption leaves an incomplete image."""


@contextmanager
def compacting(
    store: LooseStore, records: Sequence[ImageRecord], size: int, shard: Shard, stamps: Callable[[], StampOf]
) -> Iterator[Compactor | None]:
    """Yields a compactor if the run covers all images and `size` is above 0, otherwise None.

    stamps: gives what says how each image looks; called only where it is needed. Raises UserError.
    """
    if not size or not shard.is_whole:
        yield None
        return
    compactor = Compactor(store, records, size, stamps())
    yield compactor
    compactor.close()


class Compactor:
    """Writes a block's shard when all its images have ended, then removes their files. It is the Keeper of a Run.

    Half a block of ended images does not wait for the others: the files of one and a half blocks and of the images that are
    being worked on are all that there are beside the shards, unless images end in quite another order than they are listed.
    At any moment each result is complete in its files or in a shard, so the next run continues where this one stopped.

    Args:
        records: all images of the run, in order. size: images of a block.
    """

    def __init__(self, store: LooseStore, records: Sequence[ImageRecord], size: int, stamp_of: StampOf) -> None:
        self._store, self._folder, self._stamp_of = store, store.archive.folder, stamp_of
        self._layout = Layout(records, size)
        self._left = Counter(self._layout.block_of(record.image_id) for record in records)
        self._keys: dict[int, dict[str, str]] = defaultdict(dict)
        self._touched: set[int] = set()
        self._put_off: list[int] = []
        self._known, self._seen, self._ended = (Stamps(len(records)) for _ in range(3))
        recover(self._folder)
        if not self._take_stock():
            relay(self._folder, self._layout, self._known)
        self._index = StampIndex(self._folder)
        self._loose = store.loose_ids()
        store.archive.forget()

    def is_unchanged(self, record: ImageRecord) -> bool:
        """Returns True if a shard has the image's result and the stamp is unchanged; stores the stamp."""
        place = self._layout.place(record.image_id)
        stamp = self._seen[place] = self._stamp_of(record)
        unchanged = stamp != NO_STAMP and stamp == self._known[place] and record.image_id not in self._loose
        if not unchanged:
            self._touched.add(place // self._layout.size)
        return unchanged

    def settled(self, record: ImageRecord, outcome: Outcome) -> None:
        """Records that an image has ended; compacts its block if all or half of its images have. Raises UserError."""
        block, place = self._layout.block_of(record.image_id), self._layout.place(record.image_id)
        self._left[block] -= 1
        if outcome.status == "made":
            self._loose.add(record.image_id)
        if outcome.status not in ("made", "reused"):
            self._touched.add(block)
        else:
            self._ended[place] = self._seen[place]
            if outcome.key:  # the image was read
                self._keys[block][record.image_id] = outcome.key
                if self._left[block] and len(self._keys[block]) == (self._layout.size + 1) // 2:
                    self._compact(block, set(self._keys[block]))
        if not self._left[block] and block in self._touched and not self._compact(block):
            self._put_off.append(block)

    def close(self) -> None:
        """Finishes after the last image. Raises UserError."""
        put_off, self._put_off = self._put_off, []
        for block in put_off:
            self._compact(block)
        self._index.close([path.stem for path in shard_paths(self._folder)])

    def _take_stock(self) -> bool:
        """Reads the shards and their stamps; returns True if every row is in its block."""
        index, fits = StampIndex(self._folder), True
        for name, rows in whole_shards(self._folder):
            fits &= self._layout.fits(name, rows)
            for (image_id, _), stamp in zip(rows, index.stamps_of(name, rows), strict=True):
                if (place := self._layout.place(image_id)) is not None:
                    self._known[place] = stamp
        return fits

    def _compact(self, block: int, ended: Collection[str] | None = None) -> bool:
        """Moves a block's images, or its `ended` ones, into its shard. Returns False if a result is not visible yet."""
        name, image_ids, keys = shard_name(block), self._layout.image_ids(block), self._keys[block]
        path = shard_path(self._folder, name)
        try:
            rows = read_ids_and_keys(path) if path.exists() else []
            stored = {image_id for image_id, _ in rows}
            among = image_ids if ended is None else ended
            loose = {each for each in among if each in self._loose or (each in keys and each not in stored)}
            if loose:
                rows = write_shard(path, self._merged(image_ids, loose, keys, path))
        except DamagedShardError as error:
            raise UserError(str(error)) from error
        except _NotThereError:
            return False
        del self._keys[block]
        if rows:
            self._note(name, rows)
        for image_id in loose & {image_id for image_id, _ in rows}:
            self._store.remove_loose(image_id)
            self._loose.discard(image_id)
        if loose:
            self._store.archive.forget()
        return True

    def _merged(self, image_ids: list[str], loose: Collection[str], keys: Mapping[str, str], path: Path) -> Iterator[Row]:
        """Yields the rows of a block: from the images' files, otherwise from its shard."""
        earlier = read_rows(path)
        waiting = next(earlier, None)
        for image_id in image_ids:
            row = None
            if waiting is not None and waiting.image_id == image_id:
                row, waiting = waiting, next(earlier, None)
            if image_id in loose:
                row = self._store.loose_row(image_id) or row
            if image_id in keys and (row is None or row.key != keys[image_id]):
                raise _NotThereError
            if row is not None:
                yield row

    def _note(self, name: str, rows: IdsAndKeys) -> None:
        self._index.add(name, rows, [self._ended[self._layout.place(image_id)] for image_id, _ in rows])


class _NotThereError(Exception):
    """A reported result is not visible on this machine, yet or any more."""
