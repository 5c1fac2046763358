"""Progress and messages on standard error: rich's where that is a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

Item = TypeVar("Item")
PLAIN_SECONDS = 60.0
"""Time between two progress lines when the output is not a terminal."""
FRAMES_PER_SECOND = 4


def on_terminal() -> bool:
    return sys.stderr.isatty()


def print_error(message: str) -> None:
    """Prints `error: message` as one line, with a red first word on a terminal."""
    red, normal = ("\033[31m", "\033[0m") if on_terminal() else ("", "")
    print(f"{red}error:{normal} {message}", file=sys.stderr)


class ProgressBar:
    """A bar with count, rate and time left while it is entered; elsewhere than on a terminal, a line a minute.

    What is printed meanwhile appears above the bar.

    Args:
        title: what is counted.
        total: how much there is; None where that is unknown.
        done: how much was there before.
        unit: "B" shows bytes, any other word stands after the count.
        leave: the bar stays when it ends.
        plain: lines without a terminal.
        shown: False shows nothing anywhere.
    """

    def __init__(
        self,
        title: str,
        total: int | None = None,
        *,
        done: int = 0,
        unit: str = "",
        leave: bool = True,
        plain: bool = True,
        shown: bool = True,
    ) -> None:
        self.visible = shown and on_terminal()
        self._plain = plain and shown and not self.visible
        self._title, self._total, self._done, self._unit, self._note = title, total, done, unit, ""
        self._said = time.monotonic()
        self._bar = _rich_bar(unit, leave) if self.visible else None
        self._task = self._bar.add_task(title, total=total, completed=done, note="") if self._bar else None

    def __enter__(self) -> ProgressBar:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *raised: object) -> None:
        if self._bar:
            self._bar.stop()

    def update(self, count: int = 1, note: str | None = None) -> None:
        """Adds to what is done. note: shown after the bar from now on."""
        self._done += count
        self._note = self._note if note is None else note
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=self._done, note=self._note)
        elif self._plain and time.monotonic() - self._said >= PLAIN_SECONDS:
            self._said = time.monotonic()
            of_total = "" if self._total is None else f" of {self._total}"
            print(" ".join(filter(None, (f"{self._title}: {self._done}{of_total}", self._unit, self._note))), file=sys.stderr)


def progress(items: Iterable[Item], title: str, total: int | None = None, **settings: bool | str) -> Iterator[Item]:
    """The items, counted by a ProgressBar with these `settings` as they are taken."""
    with ProgressBar(title, total, **settings) as bar:
        for item in items:
            yield item
            bar.update()


def _rich_bar(unit: str, leave: bool) -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    counts = (DownloadColumn(), TransferSpeedColumn()) if unit == "B" else (MofNCompleteColumn(), TextColumn(unit))
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *counts,
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=Console(stderr=True),
        refresh_per_second=FRAMES_PER_SECOND,
        transient=not leave,
    )
