"""What an engine itself costs: runs of `waiting_loop` through any number of workers."""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from cluster_model import steady_rate
from common import in_fresh_process
from waiting_loop import Beginning, settings, wait_for_images

from pseudo_ris.records import ImageRecord
from pseudo_ris.runtime.dispatch import run_loop
from pseudo_ris.runtime.image_loop import Outcome
from pseudo_ris.runtime.runs import Run


class NotingRun(Run):
    """A run that notes when its workers began their images, and what CPU time the driver had used when it heard of it."""

    def __init__(self, folder: Path, records: Sequence[ImageRecord]) -> None:
        super().__init__("waiting", folder, records, retry_failed=False)
        self.noted: list[tuple[str, Beginning, float]] = []

    def take(self, record: ImageRecord, outcome: Outcome) -> None:
        super().take(record, outcome)
        self.noted.append((outcome.worker, Beginning.of(outcome), time.process_time()))


@dataclass(frozen=True)
class WaitingRun:
    """Figures of the time in which all workers were at work: from the last one's first image to each one's last.

    held: images that a worker has at once. seconds: of the whole run, start included. images: begun in that time. at_work:
    workers that began several. rate: images a second. driver_cpu, worker_cpu: CPU seconds an image, of the driver's process and
    of the worker's (of Ray, its child).
    """

    engine: str
    workers: int
    wait: float
    held: int
    seconds: float
    images: int
    at_work: int
    rate: float
    driver_cpu: float
    worker_cpu: float

    @property
    def overhead(self) -> float:
        """Seconds that a worker spends on an image beside the wait."""
        return self.at_work / self.rate - self.wait

    @property
    def share(self) -> float:
        """The overhead as a share of the wait."""
        return self.overhead / self.wait


def held_by(engine: str, images: int, workers: int) -> int:
    """How many images an engine gives a worker at once."""
    if engine == "local":
        return 1
    from pseudo_ris.runtime.engine.on_ray import BUNDLES_IN_FLIGHT, bundle_size  # Ray is an extra

    bundle = bundle_size(images, workers)
    return bundle * BUNDLES_IN_FLIGHT if bundle > 1 else 1


def measure_waiting(engine: str, workers: int, wait: float, images: int) -> WaitingRun:
    """A run in a fresh process."""
    return in_fresh_process(run_waiting, engine, workers, wait, images, threads=1)


def run_waiting(engine: str, workers: int, wait: float, images: int) -> WaitingRun:
    """A run in this process."""
    records = [ImageRecord(str(number), str(number), bytes) for number in range(images)]
    with tempfile.TemporaryDirectory() as folder:
        run = NotingRun(Path(folder), records)
        begun = time.monotonic()
        run_loop(wait_for_images, settings(engine, workers, wait), run)
        seconds = time.monotonic() - begun
    return WaitingRun(engine, workers, wait, held_by(engine, images, workers), seconds, **figures_of(run.noted))


def figures_of(noted: Sequence[tuple[str, Beginning, float]]) -> dict[str, Any]:
    """images, at_work, rate, driver_cpu and worker_cpu of WaitingRun.

    noted: worker, beginning, the driver's CPU seconds when it took the outcome; in the order in which it took them.
    Raises SystemExit when too few images were left once all workers were at work.
    """
    firsts: dict[str, float] = {}
    for worker, begun, _ in noted:
        firsts[worker] = min(begun.at, firsts.get(worker, begun.at))
    start = max(firsts.values())
    beginnings: dict[str, list[Beginning]] = defaultdict(list)
    driver_cpu = []
    for worker, begun, cpu in noted:
        if begun.at >= start:
            beginnings[worker].append(begun)
            driver_cpu.append(cpu)
    several = {worker: sorted(begun, key=lambda each: each.at) for worker, begun in beginnings.items() if len(begun) > 1}
    if len(several) < len(firsts):
        raise SystemExit(f"{len(firsts)} workers: too few images to see them all at work; give more with --seconds")
    return {
        "images": sum(map(len, several.values())),
        "at_work": len(several),
        "rate": steady_rate({worker: [each.at for each in begun] for worker, begun in several.items()}),
        "driver_cpu": (driver_cpu[-1] - driver_cpu[0]) / (len(driver_cpu) - 1),
        "worker_cpu": mean((begun[-1].cpu - begun[0].cpu) / (len(begun) - 1) for begun in several.values()),
    }
