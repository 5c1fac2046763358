"""Selects the engine of a run: this process, worker processes on this machine, or a Ray cluster."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Protocol

import torch

from pseudo_ris.config import EngineConfig
from pseudo_ris.errors import UserError
from pseudo_ris.io.machine import core_count
from pseudo_ris.models.offload import needed_bytes
from pseudo_ris.runtime.engine.job import Died, HandedBack, Job, Loop, Report, Stopped, Task
from pseudo_ris.runtime.engine.local import LocalEngine, cpu_worker_count, gpu_worker_count
from pseudo_ris.runtime.image_loop import Outcome
from pseudo_ris.runtime.progress import Workers
from pseudo_ris.runtime.runs import Run

DEATHS_OF_AN_IMAGE = 2
VAIN_DEATHS = 10
EMPTY_ROUNDS = 3


class Engine(Workers, Protocol):
    """Workers that images can be handed to."""

    @property
    def in_service(self) -> int:
        """Workers that are not retired (see Died)."""

    def reports(self, tasks: Sequence[Task]) -> Iterator[Report]:
        """What comes of the tasks, as it comes; none for a task that was lost with the machine that had it."""


Weights = Callable[[torch.device], int]
"""Bytes of the weights that a loop has on a device."""


def run_loop(loop: Loop, config: EngineConfig, run: Run, weights: Weights = lambda device: 0) -> None:
    """Has a recipe's per-image loop look at the images of a run. Raises UserError when the run cannot continue."""
    if config.engine == "none":
        loop(config, run)
        return
    tasks = [Task(record, run.failures.get(record.name)) for record in run.usable()]
    with open_engine(loop, config, weights) as engine, run.progress(engine):
        for task, outcome in outcomes_of(engine, tasks, run.died):
            run.take(task.record, outcome)


def open_engine(loop: Loop, config: EngineConfig, weights: Weights) -> AbstractContextManager[Engine]:
    """The workers that the settings ask for. Raises UserError."""
    job = Job.of(loop, config)
    needed_on_cpu = partial(_needed_on_cpu, weights)
    if config.engine == "ray":
        from pseudo_ris.runtime.engine.on_ray import RayEngine  # Ray is an extra

        return RayEngine(job, config, needed_on_cpu)
    gpus = visible_gpus() if config.device in ("auto", "cuda") else []
    if config.device == "cuda" and not gpus:
        raise UserError("--device cuda: there is no GPU to hand out (see CUDA_VISIBLE_DEVICES); give auto or cpu")
    if gpus:
        count = config.workers or gpu_worker_count(gpus, config.gpus_per_worker)
        job = replace(job, memory_share=config.gpus_per_worker)
    else:
        count = config.workers or cpu_worker_count(needed_on_cpu())
    job = replace(job, threads=threads_of(count))
    return LocalEngine(job, count, gpus, config.image_timeout, config.start_timeout)


def _needed_on_cpu(weights: Weights) -> int:
    return needed_bytes(weights(torch.device("cpu")), "cpu")


def outcomes_of(
    engine: Engine, tasks: Sequence[Task], died: Callable[[Died], None] = lambda _: None
) -> Iterator[tuple[Task, Outcome]]:
    """How each image ended, as it ends. What is lost with its worker is tried again when all others have ended.

    died: is told of each worker's death.

    Raises UserError when a worker says that the run cannot go on, when workers die or are lost before any image has ended, and
    when all GPUs have failed while there are images that none of them failed with.
    """
    deaths: Counter[str] = Counter()
    lost_gpus: defaultdict[str, dict[str, Died]] = defaultdict(dict)  # of an image, by GPU
    ended = lost_rounds = vain_rounds = 0
    # Each broken worker is retired in time; until then it may be handed the same images again and again.
    most_vain_rounds = EMPTY_ROUNDS * max(1, engine.in_service)
    while tasks:
        ended_before, gpu_failed = ended, False
        waiting = {task.record.name: task for task in tasks}
        again: list[Task] = []
        for report in engine.reports(tasks):
            task = waiting.pop(report.image)
            match report:
                case Stopped(message=message):
                    raise UserError(message)
                case HandedBack():
                    again.append(task)
                case Died(gpu=gpu, blamed=blamed):
                    died(report)
                    # A GPU that fails twice with an image may be broken: only a second GPU's failure counts.
                    deaths[report.image] += blamed and not (gpu and gpu in lost_gpus[report.image])
                    if gpu:
                        gpu_failed, lost_gpus[report.image][gpu] = True, report
                    if deaths[report.image] < DEATHS_OF_AN_IMAGE:
                        again.append(task)
                    else:
                        yield task, _poison(task, report)
                    if not ended and deaths.total() >= VAIN_DEATHS:
                        raise UserError(f"{VAIN_DEATHS} workers have died and none has finished an image: {report.reason}")
                    if not engine.in_service:
                        break
                case Outcome():
                    ended += 1
                    yield task, report
        lost_rounds = lost_rounds + 1 if len(waiting) == len(tasks) else 0
        vain_rounds = vain_rounds + 1 if gpu_failed and ended == ended_before else 0
        tasks = [*again, *waiting.values()]
        if gpu_failed and tasks and (not engine.in_service or vain_rounds == most_vain_rounds):
            yield from _without_gpus(tasks, lost_gpus, ended > 0)
            return
        if lost_rounds == EMPTY_ROUNDS:
            raise UserError(f"{EMPTY_ROUNDS} times all workers were lost before any image had ended; are there machines left?")


def _without_gpus(
    tasks: Sequence[Task], lost_gpus: Mapping[str, Mapping[str, Died]], any_ended: bool
) -> Iterator[tuple[Task, Outcome]]:
    """What becomes of images when no GPU can be used any more: failed if each of them has cost a GPU, else UserError."""
    failures = {name: death for name, by_worker in lost_gpus.items() for death in by_worker.values()}
    if not any_ended or any(task.record.name not in failures for task in tasks):
        raise UserError(f"no worker is left whose GPU works: {next(reversed(failures.values())).reason}")
    for task in tasks:
        name, death = task.record.name, failures[task.record.name]
        yield task, Outcome(name, "failed", f"{name}: {death.reason}", worker=death.worker)


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process sees, for CUDA_VISIBLE_DEVICES."""
    count = torch.cuda.device_count()  # CUDA reads the variable up to the first name that is no GPU's, such as -1
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [str(number) for number in range(count)] if given is None else given.split(",")[:count]


def threads_of(count: int) -> int:
    """OMP_NUM_THREADS for each of `count` workers on this machine: its share of the cores; 0 where the user has set it."""
    return 0 if "OMP_NUM_THREADS" in os.environ else max(1, core_count() // count)


def _poison(task: Task, death: Died) -> Outcome:
    """Its key is empty: the machine may have been at fault, so the next run tries the image again."""
    reason = f"{task.record.name}: twice {death.reason}"
    return Outcome(task.record.name, "failed", reason, worker=death.worker)
