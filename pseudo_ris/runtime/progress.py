"""Progress of a run: the line on a terminal, and the status file beside the results."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Protocol

from pseudo_ris.errors import UserError
from pseudo_ris.io.files import TEMPORARY_SUFFIX
from pseudo_ris.io.terminal import ProgressBar
from pseudo_ris.runtime.status_file import Status, write_status

LINE_SECONDS = 0.25
BEAT_SECONDS = 2.0
PLAIN_SECONDS = 60.0
"""Interval of the plain lines that are printed without a terminal."""
PACE_SECONDS = 120.0


class Workers(Protocol):
    """The processes that do the work of a run with an engine.

    name: setting `engine`. count: configured number. dashboard: address of Ray's dashboard, "" without one.
    """

    name: str
    count: int
    dashboard: str

    @property
    def alive(self) -> int:
        """Number of running processes; cheap and thread-safe."""


class ProgressLine:
    """The progress line on a terminal while entered; nothing without a terminal.

    Args:
        state: returns the progress of the run; called a few times per second.
    """

    def __init__(self, state: Callable[[], Status]) -> None:
        self._state = state
        status = state()
        self._line = ProgressBar(status.stage, status.total, done=status.ended, unit="images", plain=False)
        self._said = 0.0

    def __enter__(self) -> ProgressLine:
        self._line.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._line.__exit__()

    def step(self) -> None:
        """Counts one more image."""
        if not self._line.visible:
            return
        note = None
        if (now := time.monotonic()) - self._said > LINE_SECONDS:
            self._said = now
            status = self._state()
            said = (f"{status.failed} failed" if status.failed else "", status.workers_in_words)
            note = ", ".join(part for part in said if part)
        self._line.update(note=note)


class Heartbeat:
    """Updates the status file in its own thread while entered, so that no image waits for it.

    The file is removed when the run ends, and stays after an error. A file that cannot be written does not end the run.

    Args:
        state: returns the progress of the run; called in another thread. The rate is filled in here.
    """

    def __init__(self, path: Path, state: Callable[[], Status]) -> None:
        self._path, self._state = path, state
        self._pace = Pace()
        self._ended = Event()
        self._thread = Thread(target=self._go_on, daemon=True, name="status")

    def __enter__(self) -> Heartbeat:
        self._beat()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        if kind is not None:
            self._beat()
            return
        with suppress(OSError):
            for path in (self._path, *self._path.parent.glob(f".{self._path.name}.*{TEMPORARY_SUFFIX}")):
                path.unlink(missing_ok=True)

    def _go_on(self) -> None:
        said = time.monotonic()
        while not self._ended.wait(BEAT_SECONDS):
            status = self._beat()
            if time.monotonic() - said >= PLAIN_SECONDS and not sys.stderr.isatty():
                said = time.monotonic()
                print(f"{status.stage}: {status}", file=sys.stderr, flush=True)

    def _beat(self) -> Status:
        status = self._state()
        status = replace(status, rate=self._pace.rate(time.monotonic(), status.ended))
        with suppress(UserError):
            write_status(self._path, status)
        return status


class Pace:
    """Growth rate of a number over the last two minutes."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def rate(self, now: float, number: int) -> float:
        """Growth per second. now: monotonic time, seconds."""
        self._seen.append((now, number))
        while len(self._seen) > 2 and now - self._seen[1][0] >= PACE_SECONDS:
            self._seen.popleft()
        since, before = self._seen[0]
        return (number - before) / (now - since) if now > since else 0.0
