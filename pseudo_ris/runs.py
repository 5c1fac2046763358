"""The bookkeeping of one stage over a list of images: failures, progress, summary, exit code."""

from __future__ import annotations

import csv
import io
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from pseudo_ris.errors import UserError
from pseudo_ris.files import write_atomic, writing
from pseudo_ris.image_loop import Failure, ImageLoop, Outcome, read_ahead
from pseudo_ris.images import check_ids
from pseudo_ris.progress import Progress
from pseudo_ris.records import ImageRecord
from pseudo_ris.shards import ALL, Shard

EXIT_FAILURES = 3
FAILURES_FILE = "failures.csv"
FAILURES_OF_SHARDS = "failures.*-of-*.csv"
COLUMNS = ("image_id", "image", "reason", "key")


class Run(ImageLoop):
    """One stage over a list of images.

    It hands the images to a per-image loop itself (`images`, see ImageLoop), or its images are worked on elsewhere and their
    outcomes come back by `take`. A failed image is written to `<folder>/failures.csv`, and the run goes on.

    Args:
        records: all images of the stage, also where only a shard of them is worked on (ids may clash between shards).
        shard: which of them this run works on. Each shard has a failures file of its own, which starts from what
            failures.csv says of its images; the next run on all images takes the shards' files into failures.csv.
    """

    def __init__(
        self, stage: str, folder: Path, records: Sequence[ImageRecord], retry_failed: bool, shard: Shard = ALL
    ) -> None:
        super().__init__(retry_failed)
        self.stage = stage if shard.is_whole else f"{stage} {shard}"
        self.folder = folder
        self.path = folder / (FAILURES_FILE if shard.is_whole else f"failures.{shard.file_name}.csv")
        self.records = shard.pick(records)
        self.failures: dict[str, Failure] = {}
        self.counts: Counter[str] = Counter()
        self._current: set[str] = set()
        self._unusable = check_ids(records)
        self._started = time.monotonic()
        self._take_in_failures(folder, shard)

    def images(self) -> Iterator[ImageRecord]:
        """Images to look at, in order, under a progress bar; a few are read ahead."""
        ahead = read_ahead(self.usable())
        with self.progress() as progress:
            for record in ahead:
                self._begin()
                yield record
                progress.step(self.counts, len(self.failures))

    def usable(self) -> list[ImageRecord]:
        """The images that can be worked on; those whose ids clash are recorded as failures."""
        for record in self.records:
            if record.name in self._unusable:
                self.take(record, Outcome(record.name, "failed", self._unusable[record.name]))
        return [record for record in self.records if record.name not in self._unusable]

    def take(self, record: ImageRecord, outcome: Outcome) -> None:
        """Notes what became of an image, here or in a worker."""
        self.counts[outcome.status] += 1
        if outcome.status == "failed":
            if outcome.traceback:
                tqdm.write(outcome.traceback, file=sys.stderr)
            self.failures[record.name] = Failure(record.image_id, record.name, outcome.reason, outcome.key)
            self._write()
        elif outcome.status in ("made", "reused"):
            self._current.add(record.name)
            if self.failures.pop(record.name, None):
                self._write()

    def current(self) -> list[ImageRecord]:
        """Images whose result on disk is today's, in order: all that may be put together."""
        return [record for record in self.records if record.name in self._current]

    def progress(self) -> Progress:
        """The line that shows how far the run is; see Progress."""
        return Progress(self.stage, self.folder, len(self.records))

    def close(self) -> int:
        """Prints what happened to the images and returns the exit code: 0, or 3 when images failed."""
        seconds, made = time.monotonic() - self._started, self.counts["made"]
        rate = f", {seconds / made:.2f} s each" if made else ""
        print(
            f"{self.stage}: {len(self.records)} images: {made} made{rate}, {self.counts['reused']} reused, "
            f"{len(self.failures)} failed ({seconds:.0f} s)"
        )
        if left_out := self.counts["left_out"]:
            print(f"  {left_out} images are not made with these settings; run without --retry-failed to make them")
        if not self.failures:
            return 0
        for failure in self._ordered_failures()[:5]:
            print(f"  {failure.reason}")
        print(f"  all in {self.path}; mend them and add --retry-failed to redo just those")
        return EXIT_FAILURES

    def _known(self, record: ImageRecord) -> Failure | None:
        return self.failures.get(record.name)

    def _ended(self, record: ImageRecord, outcome: Outcome) -> None:
        self.take(record, outcome)

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

    def _ordered_failures(self) -> list[Failure]:
        """In image order, so that the file does not depend on how often, or in how many shards, the images were run."""
        return [self.failures[record.name] for record in self.records if record.name in self.failures]

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
