"""Progress of a run while it runs: `<folder>/.status.json`, for a share `.status.K-of-N.json`."""

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
    """Progress of a run.

    host, pid: of the driver. started, updated: Unix times by its clock, seconds. total: number of images. counts: ended images
    by Outcome.status. failed: number of listed failures, including earlier runs'. rate: recent images per second. engine: the
    setting. alive, workers: running and configured worker processes; 0 without an engine. dashboard: address of Ray's
    dashboard, "" without one.
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
        """Number of images that have ended."""
        return sum(self.counts.values())

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds until all images have ended; None without a rate."""
        return (self.total - self.ended) / self.rate if self.rate else None

    @property
    def workers_in_words(self) -> str:
        """Running workers as text, "" without an engine."""
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
    """Path of the status file of a run of the share."""
    return folder / (".status.json" if shard.is_whole else f".status.{shard.file_name}.json")


def write_status(path: Path, status: Status) -> None:
    """Raises UserError."""
    write_atomic(path, json.dumps(dataclasses.asdict(status), ensure_ascii=False) + "\n")


def read_status(path: Path) -> Status | None:
    """Reads a status file; None if there is none, or none that this version can read."""
    try:
        return Status(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
