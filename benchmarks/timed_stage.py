"""Runs a recipe as its command does, and notes when its images ended and what it asked of the file system.

    python benchmarks/timed_stage.py NOTES.json generate_masks/cutler_sam_masks.py [OPTIONS of the recipe]

File operations are those of the stage in this process, in the folders of --images, --masks and --output: all of them with
--engine none. What says how far the run is, every few seconds, is left out.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from itertools import pairwise
from pathlib import Path
from typing import Any

from pseudo_ris.records import ImageRecord
from pseudo_ris.runtime.image_loop import Outcome
from pseudo_ris.runtime.runs import Run

FOLDERS = ("--images", "--masks", "--output")
READS = frozenset({"stat", "open to read", "os.listdir", "os.scandir"})
WRITES = frozenset({"open to write", "os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.link", "os.truncate"})


@dataclass
class Notes:
    """Times on the machine's monotonic clock.

    listed: the images were known. closed: their files had been put together, too. ended: when each image was known to the
    driver to have ended. seconds: each took, in the same order. workers: who worked on it. operations: file operations by
    phase (listing, images, closing) and kind.
    """

    listed: float = 0.0
    closed: float = 0.0
    ended: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    workers: list[str] = field(default_factory=list)
    operations: dict[str, Counter[str]] = field(
        default_factory=lambda: {phase: Counter() for phase in ("listing", "images", "closing")}
    )

    @classmethod
    def read(cls, path: Path) -> Notes:
        """Notes that a run has written."""
        return cls(**json.loads(path.read_text()))

    def take(self, outcome: Outcome) -> None:
        """An image has ended."""
        self.ended.append(time.monotonic())
        self.seconds.append(outcome.seconds)
        self.workers.append(outcome.worker)


class FileOperations:
    """Counts file operations below `folders` in `counts`, which may be replaced: of the main thread and that which reads ahead.

    Python announces all but `stat` to audit hooks; `os.stat` and `os.lstat` are replaced (Python 3.10's pathlib keeps its own).
    """

    def __init__(self, folders: list[str], counts: Counter[str]) -> None:
        self._folders = tuple(os.path.abspath(folder) for folder in folders)  # noqa: PTH100 (asks nothing of the file system)
        self.counts = counts
        os.stat, os.lstat = self._counting(os.stat), self._counting(os.lstat)
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            writes = arguments[2] & (os.O_WRONLY | os.O_RDWR)
            self._count("open to write" if writes else "open to read", arguments[0])
        elif event in READS or event in WRITES:
            self._count(event, arguments[0])

    def _counting(self, function: Callable[..., os.stat_result]) -> Callable[..., os.stat_result]:
        @wraps(function)
        def counting(path: Any, *arguments: Any, **options: Any) -> os.stat_result:
            self._count("stat", path)
            return function(path, *arguments, **options)

        return counting

    def _count(self, kind: str, path: Any) -> None:
        thread = threading.current_thread().name
        if not thread.startswith(("MainThread", "read_ahead")):
            return
        if isinstance(path, str | os.PathLike) and os.path.abspath(path).startswith(self._folders):  # noqa: PTH100
            self.counts[kind] += 1


def note_run(notes: Notes, operations: FileOperations) -> None:
    """Has the Run that a recipe makes say when its phases begin and its images end."""
    begin, take, close = Run.__init__, Run.take, Run.close

    def noting_begin(run: Run, *arguments: Any, **options: Any) -> None:
        notes.listed, operations.counts = time.monotonic(), notes.operations["images"]
        begin(run, *arguments, **options)

    def noting_take(run: Run, record: ImageRecord, outcome: Outcome) -> None:
        take(run, record, outcome)
        notes.take(outcome)

    def noting_close(run: Run) -> int:
        operations.counts = notes.operations["closing"]
        return close(run)

    Run.__init__, Run.take, Run.close = noting_begin, noting_take, noting_close


def main(path: str, recipe: str, *options: str) -> None:
    """The command line above."""
    notes = Notes()
    folders = [value for name, value in pairwise(options) if name in FOLDERS]
    note_run(notes, FileOperations(folders, notes.operations["listing"]))
    sys.argv = [recipe, *options]
    try:
        runpy.run_path(recipe, run_name="__main__")
    finally:
        notes.closed = time.monotonic()
        Path(path).write_text(json.dumps(vars(notes)))


if __name__ == "__main__":
    main(*sys.argv[1:])
