"""Progress and failures of the runs on a folder: `pseudo-ris status OUT`.

OUT is stage 1's folder of masks, stage 2's of pairs, or one that holds such folders. The exit code is 0, 3 when images have
failed, and 2 when OUT is none of these. A run that has died counts as neither; the same command goes on where it stopped.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pseudo_ris.errors import UserError
from pseudo_ris.runtime.failures import FAILURES_FILE, all_failures
from pseudo_ris.runtime.image_loop import Failure
from pseudo_ris.runtime.runs import SHOWN_FAILURES
from pseudo_ris.runtime.shares import ALL, READERS, Shard, roles_at_work
from pseudo_ris.runtime.status_file import STATUS_FILES, Status, read_status
from pseudo_ris.runtime.tracebacks import Tracebacks
from pseudo_ris.storage.caption_parts import FOLDER_SUFFIX
from pseudo_ris.storage.compaction.archive import SHARDS, count_rows
from pseudo_ris.storage.mask_store import META

SILENT_SECONDS = 30.0
"""A run reports its progress every two seconds; after this time without a report it is shown as silent."""

State = Literal["under way", "dead", "unknown"]


@dataclass(frozen=True)
class RunSeen:
    """A run as it is seen from here.

    state: "dead": it has said how far it is, and nobody holds its lock. "unknown": it is on another machine and may be alive
    there; or its lock cannot be looked at. shard: of which images. status: None when it has not said anything yet. silent:
    seconds since it last did.
    """

    state: State
    shard: Shard
    status: Status | None
    silent: float = 0.0

    def lines(self) -> Iterator[str]:
        """Returns the lines to print."""
        if self.status is None:
            yield f"{self.state}: {self._whose}; it has not said yet how far it is, or puts the files together"
            return
        since = datetime.fromtimestamp(self.status.started).strftime("%Y-%m-%d %H:%M")
        silent = f", not updated for {self.silent:.0f} s" if self.silent > SILENT_SECONDS or self.state != "under way" else ""
        yield f"{self.state}: {self.status.stage} on {self.status.host} (process {self.status.pid}) since {since}{silent}"
        yield f"  {self.status}"
        if self.status.dashboard:
            yield f"  dashboard {self.status.dashboard}"
        if self.state == "dead":
            yield "  the same command goes on where this one stopped"

    def as_json(self) -> dict[str, Any]:
        """Returns the values for JSON output."""
        said = asdict(self.status) | {"seconds_left": self.status.seconds_left} if self.status else None
        return {"state": self.state, "shard": str(self.shard), "silent": round(self.silent, 1), "status": said}

    @property
    def _whose(self) -> str:
        return "a run" if self.shard.is_whole else f"the run of shard {self.shard}"


@dataclass(frozen=True)
class FolderSeen:
    """A stage's folder.

    results: how many images have one, by the name of the pairs, or "masks". failures: by image. is_read: a run of stage 2 reads
    the masks.
    """

    folder: Path
    kind: Literal["masks", "pairs"]
    runs: list[RunSeen]
    results: dict[str, int]
    failures: list[Failure] = field(default_factory=list)
    is_read: bool = False

    def lines(self) -> Iterator[str]:
        """Returns the lines to print."""
        yield f"{self.folder}: {self.kind}"
        for run in self.runs:
            yield from (f"  {line}" for line in run.lines())
        if not self.runs:
            yield "  no run is under way" + ("; stage 2 reads it" if self.is_read else "")
        for name, count in self.results.items():
            yield f"  {name}: results of {count} images"
        if self.failures:
            yield f"  failed: {len(self.failures)}, for example:"
            yield from (f"    {failure.reason}" for failure in self.failures[:SHOWN_FAILURES])
            yield f"    all in {self.folder / FAILURES_FILE}"
        tracebacks = Tracebacks(self.folder)
        if tracebacks.are_there():
            yield f"    tracebacks in {tracebacks.folder}"

    def as_json(self) -> dict[str, Any]:
        """Returns the values for JSON output."""
        return {
            "folder": str(self.folder),
            "kind": self.kind,
            "runs": [run.as_json() for run in self.runs],
            "results": self.results,
            "failed": len(self.failures),
            "failures": [asdict(failure) for failure in self.failures[:SHOWN_FAILURES]],
        }


def stage_folders(folder: Path) -> list[Path]:
    """Returns the folders of stages 1 and 2 at `folder` or directly below it. Raises UserError when there are none."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give a folder of masks or pairs, or the one above them")
    found = [folder] if _kind(folder) else sorted(path for path in folder.iterdir() if path.is_dir() and _kind(path))
    if not found:
        raise UserError(f"{folder}: neither masks nor pairs of a run are in it or directly below it; give another folder")
    return found


def look_at(folder: Path) -> FolderSeen:
    """Reads the state of a folder of stage 1 or 2. Raises UserError when its list of failures is not valid."""
    runs, is_read = _runs(folder)
    failures = all_failures(folder)
    ordered = [failures[image] for image in sorted(failures)]
    kind = _kind(folder) or "pairs"
    results = {kind if kind == "masks" else place.stem: _count_results(place) for place in _places(folder)}
    return FolderSeen(folder, kind, runs, results, ordered, is_read)


def _kind(folder: Path) -> Literal["masks", "pairs"] | None:
    if (folder / META).is_dir():
        return "masks"
    return "pairs" if _places(folder) else None


def _places(folder: Path) -> list[Path]:
    """Where the results of single images are."""
    places = [folder / META] if (folder / META).is_dir() else sorted(folder.glob(f"*{FOLDER_SUFFIX}"))
    return [place for place in places if place.is_dir()]


def _count_results(place: Path) -> int:
    with os.scandir(place) as entries:
        loose = sum(entry.name.endswith(".json") and not entry.name.startswith(".") for entry in entries)
    return loose + count_rows(place / SHARDS)


def _runs(folder: Path) -> tuple[list[RunSeen], bool]:
    """Returns the runs on a folder, and whether other runs read from it."""
    # Before and after: a run may begin or end in between, and is not dead then.
    before = _roles(folder)
    said = {_shard_of(path.name): read_status(path) for path in folder.glob(STATUS_FILES)}
    after = _roles(folder)
    held = None if before is None or after is None else before | after
    at_work = {_shard_of(role) for role in (held or set()) - {READERS}}
    shards = sorted(at_work | {shard for shard, status in said.items() if status}, key=lambda shard: (shard.count, shard.index))
    return [_run_seen(shard, said.get(shard), held) for shard in shards], READERS in (held or ())


def _run_seen(shard: Shard, status: Status | None, held: set[str] | None) -> RunSeen:
    silent = max(0.0, time.time() - status.updated) if status else 0.0
    return RunSeen(_state(shard, status, held, silent), shard, status, silent)


def _state(shard: Shard, status: Status | None, held: set[str] | None, silent: float) -> State:
    """held: the locks that are; None where they cannot be looked at."""
    if held is None:
        return "under way" if silent <= SILENT_SECONDS else "unknown"
    if shard.file_name in held:
        return "under way"
    # Not every network file system shows a lock to other machines.
    is_elsewhere = status is not None and status.host != socket.gethostname()
    return "unknown" if is_elsewhere and silent <= SILENT_SECONDS else "dead"


def _roles(folder: Path) -> set[str] | None:
    try:
        return roles_at_work(folder)
    except OSError:
        return None


def _shard_of(name: str) -> Shard:
    """The shard that a lock or a status file is named after."""
    match = re.search("([0-9]+)-of-([0-9]+)", name)
    return Shard(int(match[1]), int(match[2])) if match else ALL
