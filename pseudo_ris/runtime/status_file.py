"""What a run says of itself while it goes: `<folder>/.status.json`, of a shard `.status.K-of-N.json`."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from pseudo_ris.io.files import write_atomic
from pseudo_ris.runtime.shares import Shard

STATUS_FILES = ".status*.json"


@dataclass(frozen=True)
class Status:
    """How far a run is.

    host, pid: of the driver. started, updated: seconds since 1970 by its clock. total: images of the run. counts: of those that
    have ended, by Outcome.status. failed: on the list of failures, earlier runs' included. rate: images a second, lately.
    engine: setting of that name. alive, workers: its worker processes that are there, and that should be; 0 without an engine.
    dashboard: address of Ray's, "" without one.
    """

    stage: str
    host: str
    pid: int
    started: float
    updated: float
    total: int
    counts: dict[str, int]
    failed: int
    rate: float = 0.0
    engine: str = "none"
    alive: int = 0
    workers: int = 0
    dashboard: str = ""

    @property
    def ended(self) -> int:
        """Images that this run is done with."""
        return sum(self.counts.values())

    @property
    def seconds_left(self) -> float | None:
        """Until all images have ended, at the present rate; None where there is none."""
        return (self.total - self.ended) / self.rate if self.rate else None

    @property
    def workers_in_words(self) -> str:
        """For a person, "" without an engine."""
        return f"{self.alive} of {self.workers} workers" if self.workers else ""

    def __str__(self) -> str:
        left = self.seconds_left
        said = (
            f"{self.ended} of {self.total} images",
            f"{self.rate:.3g} images/s" if self.rate else "",
            f"{timedelta(seconds=round(left))} left" if left else "",
            f"{self.failed} failed" if self.failed else "",
            self.workers_in_words,
        )
        return ", ".join(part for part in said if part)


def status_path(folder: Path, shard: Shard) -> Path:
    """Where a run of the shard says how far it is."""
    return folder / (".status.json" if shard.is_whole else f".status.{shard.file_name}.json")


def write_status(path: Path, status: Status) -> None:
    """Raises UserError."""
    write_atomic(path, json.dumps(dataclasses.asdict(status), ensure_ascii=False) + "\n")


def read_status(path: Path) -> Status | None:
    """None when there is none, or none that this version has written."""
    try:
        return Status(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
