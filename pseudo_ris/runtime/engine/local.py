"""`--engine local`: worker processes on this machine."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from queue import SimpleQueue
from threading import Thread
from types import TracebackType

from pseudo_ris.io.machine import core_count, free_memory
from pseudo_ris.runtime.engine.job import Died, Job, Report, Task
from pseudo_ris.runtime.engine.supervisor import ENDING_SECONDS, START_SECONDS, Supervisor

PAUSE_SECONDS = 1.0
"""Of a worker whose GPU failed, so that an idle worker with another GPU takes the image first."""


class LocalEngine:
    """Worker processes on this machine while it is entered, each with its share of a GPU or of the cores.

    Args:
        job: its `memory_share` is the largest that a worker gets.
        gpus: names of the GPUs for CUDA_VISIBLE_DEVICES; empty leaves the choice to the stage's `device`.
        time_limit: seconds for an image, 0 is none. start_limit: seconds until a worker is ready, 0 is none.
    """

    name = "local"
    dashboard = ""

    def __init__(
        self, job: Job, count: int, gpus: Sequence[str], time_limit: float, start_limit: float = START_SECONDS
    ) -> None:
        self.count = count
        self._retired = 0
        self._workers: list[Supervisor] = []
        for number in range(count):
            sharing = len(range(number % len(gpus), count, len(gpus))) if gpus else count
            own = replace(job, memory_share=min(job.memory_share, 1 / sharing), device="cuda" if gpus else "")
            environment = {"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {}
            self._workers.append(Supervisor(own, f"worker {number}", time_limit, environment, start_limit))
        self._waiting: SimpleQueue[Task | None] = SimpleQueue()
        self._done: SimpleQueue[Report | BaseException] = SimpleQueue()

    def __enter__(self) -> LocalEngine:
        # A worker's process ends with the thread that started it, so each has one thread for the whole run.
        for worker in self._workers:
            Thread(target=self._keep_busy, args=(worker,), daemon=True, name=worker.name).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for _ in self._workers:
            self._waiting.put(None)
        for worker in self._workers:
            worker.terminate()
        deadline = time.monotonic() + ENDING_SECONDS
        for worker in self._workers:
            worker.close(max(0.0, deadline - time.monotonic()))

    @property
    def alive(self) -> int:
        """Workers whose process is running."""
        return sum(worker.is_alive for worker in self._workers)

    @property
    def in_service(self) -> int:
        """Workers that take images: all but those that were reported as retired."""
        return self.count - self._retired

    def reports(self, tasks: Sequence[Task]) -> Iterator[Report]:
        """What comes of each task, as it comes."""
        for task in tasks:
            self._waiting.put(task)
        for _ in tasks:
            report = self._done.get()
            if isinstance(report, BaseException):
                raise report
            self._retired += isinstance(report, Died) and report.retired
            yield report

    def _keep_busy(self, worker: Supervisor) -> None:
        try:
            while not worker.is_retired and (task := self._waiting.get()) is not None:
                report = worker.work_on(task)
                self._done.put(report)
                if isinstance(report, Died) and report.gpu:
                    time.sleep(PAUSE_SECONDS)
        except BaseException as error:
            self._done.put(error)


def gpu_worker_count(gpus: Sequence[str], gpus_per_worker: float) -> int:
    """How many workers use all GPUs of this machine; a share of a GPU is a share of one GPU."""
    return len(gpus) * int(1 / gpus_per_worker + 1e-9)


def cpu_worker_count(needed: int) -> int:
    """How many workers use all cores of this machine, as far as memory suffices; prints a line where it does not.

    needed: bytes of memory for each.
    """
    cores, free = core_count(), free_memory()
    count = max(1, min(cores, free // needed))
    if count < cores:
        gib = f"{needed / 2**30:.1f} GiB for each in {free / 2**30:.1f} GiB of free memory"
        print(f"workers: {count} and not one for each of {cores} cores, with about {gib}; --workers sets another number")
    return count
