"""Where the images of a run are worked on: here, in processes of this machine, or on a Ray cluster."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Protocol

import torch

from pseudo_ris.config import EngineConfig
from pseudo_ris.engine.job import Died, Job, Loop, Report, Stopped, Task
from pseudo_ris.engine.local import LocalEngine, worker_count
from pseudo_ris.errors import UserError
from pseudo_ris.image_loop import Outcome
from pseudo_ris.progress import Workers
from pseudo_ris.runs import Run

DEATHS_OF_AN_IMAGE = 2
VAIN_DEATHS = 10
EMPTY_ROUNDS = 3


class Engine(Workers, Protocol):
    """Workers that images can be handed to."""

    def reports(self, tasks: Sequence[Task]) -> Iterator[Report]:
        """What comes of the tasks, as it comes; none for a task that was lost with the machine that had it."""


def run_loop(loop: Loop, config: EngineConfig, run: Run) -> None:
    """Has a recipe's per-image loop look at the images of a run. Raises UserError when the run cannot go on."""
    if config.engine == "none":
        loop(config, run)
        return
    tasks = [Task(record, run.failures.get(record.name)) for record in run.usable()]
    with open_engine(loop, config) as engine, run.progress(engine):
        for task, outcome in outcomes_of(engine, tasks, run.died):
            run.take(task.record, outcome)


def open_engine(loop: Loop, config: EngineConfig) -> AbstractContextManager[Engine]:
    """The workers that the settings ask for. Raises UserError."""
    job = Job.of(loop, config)
    if config.engine == "local":
        gpus = visible_gpus() if config.device == "auto" else []
        count = config.workers or worker_count(gpus, config.gpus_per_worker)
        return LocalEngine(replace(job, threads=threads_of(count)), count, gpus, config.image_timeout)
    from pseudo_ris.engine.on_ray import RayEngine  # Ray is an extra

    return RayEngine(job, config)


def outcomes_of(
    engine: Engine, tasks: Sequence[Task], died: Callable[[Died], None] = lambda _: None
) -> Iterator[tuple[Task, Outcome]]:
    """How each image ended, as it ends. What is lost with its worker is tried again when all others have ended.

    died: is told of each worker's death.

    Raises UserError when a worker says that the run cannot go on, and when workers die or are lost before any image has ended.
    """
    deaths: Counter[str] = Counter()
    ended = empty_rounds = 0
    while tasks:
        waiting = {task.record.name: task for task in tasks}
        again: list[Task] = []
        for report in engine.reports(tasks):
            task = waiting.pop(report.image)
            match report:
                case Stopped(message=message):
                    raise UserError(message)
                case Died(blamed=blamed):
                    died(report)
                    deaths[report.image] += blamed
                    if deaths[report.image] < DEATHS_OF_AN_IMAGE:
                        again.append(task)
                    else:
                        yield task, _poison(task, report)
                    if not ended and deaths.total() >= VAIN_DEATHS:
                        raise UserError(f"{VAIN_DEATHS} workers have died and none has finished an image: {report.reason}")
                case Outcome():
                    ended += 1
                    yield task, report
        empty_rounds = empty_rounds + 1 if len(waiting) == len(tasks) else 0
        if empty_rounds == EMPTY_ROUNDS:
            raise UserError(f"{EMPTY_ROUNDS} times all workers were lost before any image had ended; are there machines left?")
        tasks = [*again, *waiting.values()]


def visible_gpus() -> list[str]:
    """Names of this machine's GPUs for CUDA_VISIBLE_DEVICES."""
    if (given := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in given.split(",") if name]
    return [str(number) for number in range(torch.cuda.device_count())]


def threads_of(count: int) -> int:
    """OMP_NUM_THREADS for each of `count` workers on this machine: its share of the cores; 0 where the user has set it."""
    return 0 if "OMP_NUM_THREADS" in os.environ else max(1, (os.cpu_count() or 1) // count)


def _poison(task: Task, death: Died) -> Outcome:
    """Its key is empty: the machine may have been at fault, so the next run tries the image again."""
    reason = f"{task.record.name}: twice {death.reason}"
    return Outcome(task.record.name, "failed", reason, worker=death.worker)
