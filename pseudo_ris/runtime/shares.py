"""Several runs on one folder: the images of each share, and which runs may run at the same time.

Locks use flock, so they end with the process, however it ends. A run holds `.lock` only while it starts or ends, and
`.lock.<role>` while it runs. Both files are empty; the last user removes them.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

from pseudo_ris.errors import UserError
from pseudo_ris.io.files import writing

LOCK = ".lock"
READERS = "readers"

Item = TypeVar("Item")


@dataclass(frozen=True)
class Shard:
    """Share `index` of `count` of a stage's images: every count-th image, from the index-th on. 0 of 1 is all of them."""

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Parses a `shard` setting "K/N". Raises UserError."""
        match = re.fullmatch("([0-9]{1,9})/([0-9]{1,9})", text)
        if match is None or int(match[1]) >= int(match[2]):
            raise UserError(f"--shard {text}: must be K/N with 0 <= K < N, for example 0/2 and 1/2 for two processes")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def file_name(self) -> str:
        """The share as part of a file name."""
        return f"{self.index}-of-{self.count}"

    @property
    def is_whole(self) -> bool:
        """True if this is all images."""
        return self.count == 1

    @property
    def closing(self) -> str:
        """What remains to be done after this share, as the end of a sentence; "" if nothing does."""
        left = "; when all shards have ended, the same command without --shard puts the files together"
        return "" if self.is_whole else left

    def pick(self, items: Sequence[Item]) -> list[Item]:
        """The items of the share, in order."""
        return list(items[self.index :: self.count])


ALL = Shard()


@contextmanager
def working_in(folder: Path, shard: Shard) -> Iterator[None]:
    """Creates and locks `folder` for a run that writes to it. Shares of the same count may run side by side.

    Raises UserError at once when another run excludes this one, or the folder cannot be written to.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with _at_work(folder, shard.file_name, fcntl.LOCK_EX):
        yield


@contextmanager
def reading_from(folder: Path) -> Iterator[None]:
    """Locks `folder` for a run that reads from it; other runs may read too. A folder without write access needs no lock.

    Raises UserError at once when a run writes to it.
    """
    with _at_work(folder, READERS, fcntl.LOCK_SH) if os.access(folder, os.W_OK) else nullcontext():
        yield


def roles_at_work(folder: Path) -> set[str]:
    """The current runs in a folder: READERS, and the `file_name` of shares. Waits while a run starts or ends.

    Raises OSError when the locks cannot be opened, for example without write access.
    """
    if not any(folder.glob(f"{LOCK}.*")):
        return set()
    with _turn(folder):
        return {path.name.removeprefix(f"{LOCK}.") for path in folder.glob(f"{LOCK}.*") if _is_held(path)}


@contextmanager
def _at_work(folder: Path, role: str, mode: int) -> Iterator[None]:
    own = folder / f"{LOCK}.{role}"
    with writing(folder), _turn(folder):
        for path in sorted(folder.glob(f"{LOCK}.*")):
            if not _is_held(path):
                path.unlink()
            elif not _agree(role, path.name.removeprefix(f"{LOCK}.")):
                raise UserError(f"another run is at work in {folder}; wait until it has ended, or give another folder")
        file = own.open("wb")
        fcntl.flock(file, mode)
    try:
        with file:
            yield
    finally:
        with suppress(OSError), _turn(folder):
            if not _is_held(own):
                own.unlink()


def _agree(role: str, other: str) -> bool:
    """True if runs of these roles may run at the same time: two readers, or two different shares of the same count."""
    if READERS in (role, other):
        return role == other
    return role != other and role.partition("-of-")[2] == other.partition("-of-")[2]


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Lets one run at a time inspect and change the locks; waits for its turn."""
    path = folder / LOCK
    while True:
        with path.open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_still(file, path):
                continue
            try:
                yield
            finally:
                if not any(folder.glob(f"{LOCK}.*")):
                    path.unlink(missing_ok=True)
            return


def _is_still(file: BinaryIO, path: Path) -> bool:
    """True if `path` names the open file; a run that waited for it may hold one that the previous run has removed."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _is_held(path: Path) -> bool:
    with path.open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
