"""`--engine local`: worker processes on this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from queue import SimpleQueue
from threading import Thread
from types import TracebackType

from pseudo_ris.engine.job import Job, Report, Task
from pseudo_ris.engine.supervisor import ENDING_SECONDS, Supervisor


class LocalEngine:
    """Worker processes on this machine while it is entered, each with its share of the GPUs or of the cores.

    Args:
        gpus: names of the GPUs for CUDA_VISIBLE_DEVICES; empty leaves the choice to the stage's `device`.
        time_limit: seconds for an image, 0 is none.
    """

    name = "local"
    dashboard = ""

    def __init__(self, job: Job, count: int, gpus: Sequence[str], time_limit: float) -> None:
        self.count = count
        self._workers = [
            Supervisor(job, f"worker {number}", time_limit, _gpu_of(number, count, gpus)) for number in range(count)
        ]
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

    def reports(self, tasks: Sequence[Task]) -> Iterator[Report]:
        """What comes of each task, as it comes."""
        for task in tasks:
            self._waiting.put(task)
        for _ in tasks:
            report = self._done.get()
            if isinstance(report, BaseException):
                raise report
            yield report

    def _keep_busy(self, worker: Supervisor) -> None:
        try:
            while (task := self._waiting.get()) is not None:
                self._done.put(worker.work_on(task))
        except BaseException as error:
            self._done.put(error)


def worker_count(gpus: Sequence[str], gpus_per_worker: float) -> int:
    """How many workers use all GPUs of this machine, or without one all its cores."""
    return max(1, int(len(gpus) / gpus_per_worker)) if gpus else os.cpu_count() or 1


def _gpu_of(number: int, count: int, gpus: Sequence[str]) -> dict[str, str]:
    """The environment that shows a worker its GPUs: one, or where there are more than workers, an equal share."""
    if not gpus:
        return {}
    share = gpus[number::count] if count <= len(gpus) else [gpus[number % len(gpus)]]
    return {"CUDA_VISIBLE_DEVICES": ",".join(share)}
