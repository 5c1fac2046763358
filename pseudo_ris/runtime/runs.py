"""The bookkeeping of one stage over a list of images: failures, progress, summary, exit code."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

from pseudo_ris.errors import UserError
from pseudo_ris.io.files import is_case_sensitive, writing
from pseudo_ris.io.image_ids import require_distinct, unusable_images
from pseudo_ris.records import ImageRecord
from pseudo_ris.runtime.engine.job import Died
from pseudo_ris.runtime.failures import FAILURES_FILE, FAILURES_OF_SHARDS, read_failures, write_failures
from pseudo_ris.runtime.image_loop import Failure, ImageLoop, Outcome, read_ahead
from pseudo_ris.runtime.progress import Heartbeat, ProgressLine, Workers
from pseudo_ris.runtime.shares import ALL, Shard
from pseudo_ris.runtime.status_file import STATUS_FILES, Status, status_path
from pseudo_ris.runtime.tracebacks import Tracebacks

EXIT_FAILURES = 3
SHOWN_FAILURES = 5
SHOWN_WORKERS = 20
WRITE_SECONDS = 1.0
SHARE_OF_WRITING = 0.05
"""Largest share of the time spent on writing failures: with very many, the file is written less often."""


class Keeper(Protocol):
    """Looks after finished results."""

    def is_unchanged(self, record: ImageRecord) -> bool:
        """True if the image's result is known to be current without reading the image; called before images are handed out."""

    def settled(self, record: ImageRecord, outcome: Outcome) -> None:
        """Called when an image has ended and the run has recorded it."""


class Run(ImageLoop):
    """One stage over a list of images.

    The images are processed by a per-image loop in this process (`images`, see ImageLoop), or elsewhere, with their outcomes
    passed to `take`. Failed images are written to `<folder>/failures.csv`, and the run continues. While entered, the run writes
    its progress to `<folder>/.status.json`; no other run may use the folder meanwhile.

    Args:
        records: all images of the stage, also when the run processes only a share of them (ids must differ across shares too).
        shard: the share of the images that this run processes. Each share has its own failures file, which starts from its
            images' entries in failures.csv; the next run on all images merges these files into failures.csv.
    """

    def __init__(
        self,
        stage: str,
        folder: Path,
        records: Sequence[ImageRecord],
        retry_failed: bool,
        shard: Shard = ALL,
        keeper: Keeper | None = None,
    ) -> None:
        super().__init__(retry_failed)
        self.stage = stage if shard.is_whole else f"{stage} {shard}"
        self.folder = folder
        self.shard = shard
        self.path = folder / (FAILURES_FILE if shard.is_whole else f"failures.{shard.file_name}.csv")
        self.records = shard.pick(records)
        self.keeper = keeper
        self.failures: dict[str, Failure] = {}
        self.tracebacks = Tracebacks(folder)
        self.counts: Counter[str] = Counter()
        self._current: set[str] = set()
        self._unusable = unusable_images(records)
        require_distinct(records, is_case_sensitive(folder))
        self._workers: Workers | None = None
        self._by_worker: dict[str, _Share] = {}
        self._line: ProgressLine | None = None
        self._began, self._started = time.time(), time.monotonic()
        self._first_image = self._started
        self._is_written = False
        self._take_in_failures()
        self._next_writing = 0.0
        self._heartbeat = Heartbeat(status_path(folder, shard), self.status)

    def __enter__(self) -> Run:
        self._heartbeat.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Leaves the folder ready for the next run; after a run without an error, no file of it but the results stays."""
        with suppress(UserError):  # `close` has written already, or the run ends with an error anyway
            self._write()
        self._heartbeat.__exit__(kind, error, trace)
        if kind is None and self.shard.is_whole:
            with suppress(OSError):
                for left_by_a_killed_shard in self.folder.glob(STATUS_FILES):
                    left_by_a_killed_shard.unlink()

    def images(self) -> Iterator[ImageRecord]:
        """The images to process, in order, with a progress line; the next few are read ahead."""
        ahead = read_ahead(self.usable())
        with self.progress():
            for record in ahead:
                self._begin()
                yield record

    def usable(self) -> list[ImageRecord]:
        """The images to process; records the others: those with unusable ids or with results known to be current."""
        found = []
        for record in self.records:
            if record.name in self._unusable:
                self.take(record, Outcome(record.name, "failed", self._unusable[record.name]))
            elif self.keeper is not None and self.keeper.is_unchanged(record):
                self.take(record, Outcome(record.name, "reused"))
            else:
                found.append(record)
        return found

    def take(self, record: ImageRecord, outcome: Outcome) -> None:
        """Records the outcome of an image, from this process or a worker."""
        self.counts[outcome.status] += 1
        if outcome.worker:
            self._share_of(outcome.worker).add(outcome)
        if outcome.status == "failed":
            self._failed(record, outcome)
        elif outcome.status in ("made", "reused"):
            self._current.add(record.name)
            if self.failures.pop(record.name, None):
                self.tracebacks.remove(record.image_id)
                self._is_written = False
        if not self._is_written and time.monotonic() >= self._next_writing:
            self._write()
        if self._line is not None:
            self._line.step()
        if self.keeper is not None:
            self.keeper.settled(record, outcome)

    def died(self, death: Died) -> None:
        """Records that a worker died; `take` gets the outcome of its image."""
        self._share_of(death.worker).deaths += 1
        if death.retired:
            print(f"{death.worker} is out of service: {death.reason}", file=sys.stderr)

    def current(self) -> list[ImageRecord]:
        """Images whose result on disk is current, in order: those to assemble."""
        return [record for record in self.records if record.name in self._current]

    @contextmanager
    def progress(self, workers: Workers | None = None) -> Iterator[None]:
        """Shows progress while images are processed. workers: the processes that do it; None for this process."""
        self._workers, self._first_image = workers, time.monotonic()
        try:
            with ProgressLine(self.status) as self._line:
                yield
        finally:
            self._line = self._workers = None

    def status(self) -> Status:
        """The progress of the run, without its rate; thread-safe."""
        workers = self._workers
        return Status(
            stage=self.stage,
            host=socket.gethostname(),
            pid=os.getpid(),
            started=self._began,
            updated=time.time(),
            total=len(self.records),
            counts=dict(self.counts),
            failed=len(self.failures),
            engine=workers.name if workers else "none",
            alive=workers.alive if workers else 0,
            workers=workers.count if workers else 0,
            dashboard=workers.dashboard if workers else "",
        )

    def close(self) -> int:
        """Prints the summary and returns the exit code: 0, or 3 when images failed."""
        self._write()
        if self.shard.is_whole:
            self.tracebacks.close()
        self._print_counts()
        self._print_workers()
        if not self.failures:
            return 0
        for failure in self._ordered_failures()[:SHOWN_FAILURES]:
            print(f"  {failure.reason}")
        print(f"  all in {self.path}; fix them and add --retry-failed to process only those")
        if self.tracebacks.are_there():
            print(f"  tracebacks in {self.tracebacks.folder}")
        return EXIT_FAILURES

    def _print_counts(self) -> None:
        now, made = time.monotonic(), self.counts["made"]
        rate = f", {(now - self._first_image) / made:.2f} s each" if made else ""
        print(
            f"{self.stage}: {len(self.records)} images: {made} made{rate}, {self.counts['reused']} reused, "
            f"{len(self.failures)} failed ({now - self._started:.0f} s)"
        )
        if left_out := self.counts["left_out"]:
            print(f"  {left_out} images are not made with these settings; run without --retry-failed to make them")

    def _print_workers(self) -> None:
        # "worker 10" comes after "worker 9".
        names = sorted(self._by_worker, key=lambda name: (len(name), name))
        for name in names[:SHOWN_WORKERS]:
            print(f"  {name}: {self._by_worker[name]}")
        if len(names) > SHOWN_WORKERS:
            print(f"  and {len(names) - SHOWN_WORKERS} more workers")

    def _share_of(self, worker: str) -> _Share:
        return self._by_worker.setdefault(worker, _Share())

    def _known(self, record: ImageRecord) -> Failure | None:
        return self.failures.get(record.name)

    def _ended(self, record: ImageRecord, outcome: Outcome) -> None:
        self.take(record, outcome)

    def _failed(self, record: ImageRecord, outcome: Outcome) -> None:
        if outcome.traceback:
            print(outcome.traceback, file=sys.stderr)
            self.tracebacks.keep(record.image_id, outcome.traceback)
        else:
            self.tracebacks.remove(record.image_id)
        failure = Failure(record.image_id, record.name, outcome.reason, outcome.key)
        if self.failures.get(record.name) != failure:
            self.failures[record.name] = failure
            self._is_written = False

    def _take_in_failures(self) -> None:
        """Reads the failures from earlier runs and shares; a share's entries are newer than failures.csv's."""
        of_shards = sorted(self.folder.glob(FAILURES_OF_SHARDS)) if self.shard.is_whole else [self.path]
        said = [failure for path in (self.folder / FAILURES_FILE, *of_shards) for failure in read_failures(path)]
        names = {failure.image for failure in said}
        listed = {record.name for record in self.records if record.name in names}
        self.failures = {failure.image: failure for failure in said if failure.image in listed}
        self._write()
        if self.shard.is_whole:
            for path in of_shards:
                with writing(path):
                    path.unlink()
        failed = {failure.image_id for failure in self.failures.values()}
        self.tracebacks.take_in(failed, None if self.shard.is_whole else {record.image_id for record in self.records})

    def _ordered_failures(self) -> list[Failure]:
        """Sorted by name, so that the file does not depend on the number of runs and shares."""
        return [self.failures[name] for name in sorted(self.failures)]

    def _write(self) -> None:
        """Writes the failures if they have changed; too slow to call for each failure."""
        if self._is_written:
            return
        begun = time.monotonic()
        write_failures(self.path, self._ordered_failures())
        now = time.monotonic()
        self._is_written, self._next_writing = True, now + max(WRITE_SECONDS, (now - begun) / SHARE_OF_WRITING)


@dataclass
class _Share:
    """What a worker has done. seconds: total time of the images that it made."""

    made: int = 0
    failed: int = 0
    deaths: int = 0
    seconds: float = 0.0

    def add(self, outcome: Outcome) -> None:
        self.failed += outcome.status == "failed"
        if outcome.status == "made":
            self.made += 1
            self.seconds += outcome.seconds

    def __str__(self) -> str:
        each = f", {self.seconds / self.made:.2f} s each" if self.made else ""
        failed = f", {self.failed} failed" if self.failed else ""
        times = "once" if self.deaths == 1 else f"{self.deaths} times"
        return f"{self.made} made{each}{failed}" + (f", died {times}" if self.deaths else "")
