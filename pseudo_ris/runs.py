"""What both stages share around their per-image loop: failures, progress, summary, exit code."""

from __future__ import annotations

import csv
import io
import sys
import time
import traceback
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.files import write_atomic, writing
from pseudo_ris.images import check_ids
from pseudo_ris.records import ImageRecord
from pseudo_ris.shards import ALL, Shard

EXIT_FAILURES = 3
READ_AHEAD = 4
FAILURES_FILE = "failures.csv"
FAILURES_OF_SHARDS = "failures.*-of-*.csv"
COLUMNS = ("image_id", "image", "reason", "key")


@dataclass(frozen=True)
class Failure:
    """One row of failures.csv. key: hash of what was tried, so that changed input or settings are tried anew."""

    image_id: str
    image: str
    reason: str
    key: str


def read_ahead(records: Iterable[ImageRecord], count: int = READ_AHEAD) -> Iterator[ImageRecord]:
    """The records, while the files of the next `count` are already being read; `read` gives what came of it."""
    waiting: deque[ImageRecord] = deque()
    with ThreadPoolExecutor(1, "read_ahead") as reader:
        try:
            for record in records:
                waiting.append(replace(record, read=reader.submit(record.read).result))
                if len(waiting) > count:
                    yield waiting.popleft()
            while waiting:
                yield waiting.popleft()
        finally:
            reader.shutdown(cancel_futures=True)


class Run:
    """The bookkeeping of one stage over a list of images.

    A stage asks `images()` for the images, wraps each in `guard(record)` and asks `is_needed` whether there is
    work to do. A BadInputError (or any other exception that is not the user's to solve for the whole run) inside the guard
    is written to `<folder>/failures.csv` and the run goes on.

    Args:
        records: all images of the stage, also where only a shard of them is worked on (ids may clash between shards).
        shard: which of them this run works on. Each shard has a failures file of its own, which starts from what
            failures.csv says of its images; the next run on all images takes the shards' files into failures.csv.
    """

    def __init__(
        self, stage: str, folder: Path, records: Sequence[ImageRecord], retry_failed: bool, shard: Shard = ALL
    ) -> None:
        self.stage = stage if shard.is_whole else f"{stage} {shard}"
        self.path = folder / (FAILURES_FILE if shard.is_whole else f"failures.{shard.file_name}.csv")
        self.records = shard.pick(records)
        self.retry_failed = retry_failed
        self.failures: dict[str, Failure] = {}
        self.made = 0
        self.reused = 0
        self.left_out = 0
        self._current: set[str] = set()
        self._key = ""
        self._unusable = check_ids(records)
        self._started = time.monotonic()
        self._take_in_failures(folder, shard)

    def images(self) -> Iterator[ImageRecord]:
        """Images to look at, in order, under a progress bar; a few are read ahead. Ids that clash are recorded as failures."""
        ahead = read_ahead(self.records)
        progress = tqdm(ahead, desc=self.stage, total=len(self.records), unit="image", dynamic_ncols=True, disable=None)
        for record in progress:
            self._key = ""
            if record.name in self._unusable:
                self._fail(record, self._unusable[record.name])
            else:
                yield record
            progress.set_postfix_str(f"{len(self.failures)} failed" if self.failures else "", refresh=False)

    def is_needed(self, record: ImageRecord, key: str, is_current: bool) -> bool:
        """Whether the image must be worked on. key: hash of all the result depends on; is_current: a result with it exists."""
        self._key = key
        known = self.failures.get(record.name)
        if is_current:
            self.reused += 1
            self._settle(record)
            return False
        if self.retry_failed:
            self.left_out += known is None
            return known is not None
        return known is None or known.key != key

    @contextmanager
    def guard(self, record: ImageRecord) -> Iterator[None]:
        """Keeps what goes wrong with one image from the others."""
        try:
            yield
        except UserError:
            raise
        except BadInputError as error:
            self._fail(record, str(error))
        except Exception as error:
            tqdm.write(traceback.format_exc(), file=sys.stderr)
            self._fail(record, f"{type(error).__name__}: {error}".splitlines()[0])

    def finished(self, record: ImageRecord) -> None:
        """Notes that the image's result is on disk."""
        self.made += 1
        self._settle(record)

    def current(self) -> list[ImageRecord]:
        """Images whose result on disk is today's, in order: all that may be put together."""
        return [record for record in self.records if record.name in self._current]

    def close(self) -> int:
        """Prints what happened to the images and returns the exit code: 0, or 3 when images failed."""
        seconds = time.monotonic() - self._started
        rate = f", {seconds / self.made:.2f} s each" if self.made else ""
        print(
            f"{self.stage}: {len(self.records)} images: {self.made} made{rate}, {self.reused} reused, "
            f"{len(self.failures)} failed ({seconds:.0f} s)"
        )
        if self.left_out:
            print(f"  {self.left_out} images are not made with these settings; run without --retry-failed to make them")
        if not self.failures:
            return 0
        for failure in self._ordered_failures()[:5]:
            print(f"  {failure.reason}")
        print(f"  all in {self.path}; mend them and add --retry-failed to redo just those")
        return EXIT_FAILURES

    def _take_in_failures(self, folder: Path, shard: Shard) -> None:
        """Reads what earlier runs, or shards, say of this run's images; what a shard says is newer than failures.csv."""
        of_shards = sorted(folder.glob(FAILURES_OF_SHARDS)) if shard.is_whole else [self.path]
        listed = {record.name for record in self.records}
        for path in (folder / FAILURES_FILE, *of_shards):
            self.failures |= {failure.image: failure for failure in read_failures(path) if failure.image in listed}
        if of_shards:
            self._write()
        if shard.is_whole:
            for path in of_shards:
                with writing(path):
                    path.unlink()

    def _fail(self, record: ImageRecord, reason: str) -> None:
        self.failures[record.name] = Failure(record.image_id, record.name, reason, self._key)
        self._write()

    def _ordered_failures(self) -> list[Failure]:
        """In image order, so that the file does not depend on how often, or in how many shards, the images were run."""
        return [self.failures[record.name] for record in self.records if record.name in self.failures]

    def _settle(self, record: ImageRecord) -> None:
        self._current.add(record.name)
        if self.failures.pop(record.name, None):
            self._write()

    def _write(self) -> None:
        if not self.failures:
            with writing(self.path):
                self.path.unlink(missing_ok=True)
            return
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for failure in self._ordered_failures():
            writer.writerow((failure.image_id, failure.image, failure.reason, failure.key))
        write_atomic(self.path, text.getvalue())


def read_failures(path: Path) -> list[Failure]:
    """Rows of a failures.csv, [] when there is none. Raises UserError when it is not one."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    if not rows or tuple(rows[0]) != COLUMNS or any(len(row) != len(COLUMNS) for row in rows):
        raise UserError(f"{path}: not a failures file (columns {', '.join(COLUMNS)}); remove it and run again")
    return [Failure(*row) for row in rows[1:]]
