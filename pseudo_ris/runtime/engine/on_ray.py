"""`--engine ray`: workers on the machines of a Ray cluster, one actor each.

The only module that imports Ray. All machines must have this checkout, the same Python environment and the run's files at the
same paths. Failures: a worker's Supervisor restarts its child process; the engine replaces an actor that is lost. The images
that a lost actor had are missing from this round's reports and are tried again in the next.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

from pseudo_ris.config import EngineConfig
from pseudo_ris.errors import UserError
from pseudo_ris.runtime.engine.job import Died, HandedBack, Job, Report, Stopped, Task
from pseudo_ris.runtime.engine.ray_share import Share, share_of
from pseudo_ris.runtime.engine.supervisor import Supervisor

# Ray reads them when it is imported or started: no usage reports, no output of its own on the terminal.
for _variable, _value in (
    ("RAY_USAGE_STATS_ENABLED", "0"),
    ("RAY_BACKEND_LOG_LEVEL", "fatal"),
    ("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"),
):
    os.environ.setdefault(_variable, _value)
try:
    import ray
except ImportError as error:
    raise UserError(f'--engine ray needs Ray ({error}): pip install "pseudo-ris[scale]"') from error

ANSWER_SECONDS = 10.0
START_SECONDS = 300.0
"""How long the run waits while no worker is running, at the start or after a loss, before it gives up."""
LOOK_SECONDS = 15.0
"""How often the engine looks for machines that have joined the cluster."""
WAIT_SECONDS = 1.0
LARGEST_BUNDLE = 64
BUNDLES_OF_A_WORKER = 32
"""Each worker gets at least this many bundles, so that all workers finish at about the same time."""
BUNDLES_IN_FLIGHT = 2
"""Of a worker, if a bundle has more than one image: the next bundle waits at the worker."""
REPORT_SECONDS = 1.0
REPORTS_A_SECOND = 100
"""Of all workers together, to keep the driver's load low."""
STARTS_OF_A_WORKER = 3
LOCAL_OBJECT_STORE = 256 << 20
LONGEST_REASON = 300


class WorkersLostError(Exception):
    """No worker has run for START_SECONDS. any_worked: at least one ran before."""

    def __init__(self, any_worked: bool) -> None:
        super().__init__("no worker is left")
        self.any_worked = any_worked


class RayEngine:
    """Workers on a Ray cluster while it is entered. Raises UserError if there is no cluster or it has no room for a worker."""

    name = "ray"

    def __init__(self, job: Job, config: EngineConfig, needed_on_cpu: Callable[[], int]) -> None:
        """needed_on_cpu: returns the bytes of memory that a worker takes on a CPU."""
        self.dashboard = ""
        self._config, self._needed_on_cpu = config, cache(needed_on_cpu)
        # Ray sets the variable itself, so it is read before Ray starts.
        self._job = replace(job, threads=int(os.environ.get("OMP_NUM_THREADS", 0)))
        self._share = Share(0, 0.0, 0.0, 0)
        self._pool: _Pool | None = None
        self._lost: set[str] = set()

    def __enter__(self) -> RayEngine:
        self.dashboard = _connect(self._config.address)
        print(f"Ray dashboard: {self.dashboard or 'there is none'}")
        try:
            self._look_at_machines()
        except BaseException:
            ray.shutdown()
            raise
        print(f"Ray workers: {self.count}, each with {self._share}")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.close()
        ray.shutdown()

    @property
    def count(self) -> int:
        """Workers that the cluster has room for, or that `--workers` asks for."""
        return self._share.count

    @property
    def alive(self) -> int:
        """Workers that are running."""
        return self._pool.at_work if self._pool else 0

    @property
    def in_service(self) -> int:
        """Workers that take images: all but those that were reported as retired."""
        return self.count - (self._pool.retired if self._pool else 0)

    def reports(self, tasks: Sequence[Task]) -> Iterator[Report]:
        """Yields the report of each task when it comes; none for a task that was lost with its worker.

        A task that was lost before and is lost again while its worker had no other task is reported as Died.
        """
        suspects = self._lost & {task.record.name for task in tasks}
        self._pool = pool = _Pool(tasks, alone=bool(suspects), count=self.count)
        try:
            yield from self._run(pool)
        except WorkersLostError as error:
            if not error.any_worked:
                raise UserError(
                    f"Ray has started none of {self.count} workers in {START_SECONDS:g} s, each with {self._share}; see "
                    "whether other jobs use the cluster, or give --workers or --gpus-per-worker that it has room for"
                ) from error
        except ray.exceptions.RayError as error:
            raise UserError(f"Ray cannot go on: {_last_line(error)}") from error
        finally:
            pool.close()
        self._lost |= pool.lost
        for name in sorted(pool.lost & suspects):
            yield Died(name, "its Ray worker was lost while it had no other image", blamed=True)

    def _run(self, pool: _Pool) -> Iterator[Report]:
        looked = -LOOK_SECONDS
        while pool.has_work:
            if time.monotonic() - looked > LOOK_SECONDS:
                self._look_at_machines()
                looked = time.monotonic()
            pool.start_missing(self._share, self._job)
            pool.hand_out()
            yield from pool.collect()

    def _look_at_machines(self) -> None:
        """Computes each worker's share from the machines of the cluster; unchanged while all machines with GPUs are away."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not self._share.gpus or any(node.get("GPU") for node in nodes):
            self._share = share_of(nodes, self._config, self._needed_on_cpu)


def bundle_size(images: int, workers: int) -> int:
    """How many images go to a worker at once."""
    return max(1, min(LARGEST_BUNDLE, images // (workers * BUNDLES_OF_A_WORKER)))


@dataclass(eq=False)
class _Member:
    """An actor of the pool. started: resolves when it runs. bundles: its tasks, in the order in which it works on them."""

    actor: Any
    started: Any
    is_running: bool = False
    is_retired: bool = False
    bundles: deque[tuple[Any, dict[str, Task]]] = field(default_factory=deque)

    @property
    def awaited(self) -> Any:
        """What ray.wait waits for: the start, or the next reports of the oldest bundle; None if the actor is idle."""
        if not self.is_running:
            return self.started
        return self.bundles[0][0] if self.bundles else None


class _Pool:
    """The actors that work on some tasks.

    alone: an actor has at most one task at a time. retired: actors that take no more images; they keep their GPU, so that Ray
    starts no other actor on it. lost: names of the tasks that were with an actor when it was lost.
    """

    def __init__(self, tasks: Sequence[Task], alone: bool, count: int) -> None:
        size = 1 if alone else bundle_size(len(tasks), count)
        self._bundles = deque(list(tasks[start : start + size]) for start in range(0, len(tasks), size))
        self._in_flight = 1 if size == 1 else BUNDLES_IN_FLIGHT
        self._members: list[_Member] = []
        self._failed_starts = 0
        self._any_worked = False
        self._last_at_work = time.monotonic()
        self.retired = 0
        self.lost: set[str] = set()

    @property
    def at_work(self) -> int:
        """Actors that run."""
        return sum(member.is_running for member in self._members)

    @property
    def has_work(self) -> bool:
        """True while a task waits or is with an actor."""
        return bool(self._bundles) or any(member.bundles for member in self._members)

    def start_missing(self, share: Share, job: Job) -> None:
        """Starts actors up to the share's count, but no more than there are bundles for."""
        idle = sum(not member.bundles and not member.is_retired for member in self._members)
        job = replace(
            job, threads=job.threads or share.threads, device="cuda" if share.gpus else "", memory_share=share.memory_share
        )
        for _ in range(min(share.count - len(self._members), len(self._bundles) - idle)):
            actor = _Worker.options(num_cpus=share.cpus, num_gpus=share.gpus, scheduling_strategy="SPREAD").remote(
                job, str(Path.cwd()), max(REPORT_SECONDS, share.count / REPORTS_A_SECOND)
            )
            self._members.append(_Member(actor, actor.started.remote()))

    def hand_out(self) -> None:
        """Gives waiting bundles to the actors that run, to those with the fewest first."""
        for held in range(self._in_flight):
            for member in self._members:
                if self._bundles and member.is_running and not member.is_retired and len(member.bundles) == held:
                    bundle = self._bundles.popleft()
                    member.bundles.append((member.actor.work_on.remote(bundle), {task.record.name: task for task in bundle}))

    def collect(self) -> Iterator[Report]:
        """Waits for the next reports, starts or losses of actors. Raises WorkersLostError."""
        members = {member.awaited: member for member in self._members if member.awaited is not None}
        ready, _ = ray.wait(list(members), num_returns=1, timeout=WAIT_SECONDS, fetch_local=False) if members else ([], [])
        for awaited in ready:
            yield from self._take_from(members[awaited])
        if self.at_work:
            self._any_worked, self._last_at_work = True, time.monotonic()
        elif time.monotonic() - self._last_at_work > START_SECONDS:
            raise WorkersLostError(self._any_worked)

    def close(self) -> None:
        """Ends all actors at once."""
        for member in self._members:
            ray.kill(member.actor)
        self._members.clear()

    def _take_from(self, member: _Member) -> Iterator[Report]:
        try:
            if not member.is_running:
                ray.get(member.started)
                member.is_running, self._failed_starts = True, 0
                return
            stream, waiting = member.bundles[0]
            reports = next((ray.get(reference, timeout=START_SECONDS) for reference in stream), None)
        except ray.exceptions.RayError as error:
            self._lose(member, error)
            return
        if reports is None:
            member.bundles.popleft()
            return
        for report in reports:
            task = waiting.pop(report.image)
            if isinstance(report, Died) and report.retired:
                member.is_retired = True
                self.retired += 1
            if isinstance(report, HandedBack) and not all(member.is_retired for member in self._members):
                self._bundles.append([task])
            else:
                yield report

    def _lose(self, member: _Member, error: Exception) -> None:
        """Drops an actor that does not answer; its tasks are lost. Raises RayError when actors end before they run."""
        self._members.remove(member)
        ray.kill(member.actor)
        self.lost.update(name for _, waiting in member.bundles for name in waiting)
        if not member.is_running:
            self._failed_starts += 1
            if self._failed_starts > STARTS_OF_A_WORKER * (len(self._members) + 1):
                raise error


@ray.remote(max_restarts=0, max_task_retries=0)
class _Worker:
    """An actor: hands tasks to the process that its Supervisor keeps."""

    def __init__(self, job: Job, folder: str, report_seconds: float) -> None:
        self._report_seconds = report_seconds
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._missing = next((path for path in (folder, job.recipe) if not Path(path).exists()), None)
        if self._missing is None:
            os.chdir(folder)  # paths in settings are relative to it
        self._supervisor = Supervisor(job, self._name, job.config.image_timeout, start_limit=job.config.start_timeout)
        # A worker's process ends with the thread that started it, so one thread starts all of them.
        self._thread = ThreadPoolExecutor(1, "supervisor")

    def started(self) -> None:
        """Returns when the actor runs."""

    @ray.method(num_returns="streaming")
    def work_on(self, tasks: list[Task]) -> Iterator[list[Report]]:
        """Yields the tasks' reports in order; those that come within `report_seconds` together."""
        reports, begun = [], time.monotonic()
        for task in tasks:
            reports.append(self._thread.submit(self._report_of, task).result())
            if time.monotonic() - begun > self._report_seconds:
                yield reports
                reports, begun = [], time.monotonic()
        if reports:
            yield reports

    def _report_of(self, task: Task) -> Report:
        if self._missing is None:
            return self._supervisor.work_on(task)
        place = f"{socket.gethostname()} of the Ray cluster has no {self._missing}"
        return Stopped(task.record.name, f"{place}: all its machines need this checkout and the run's files at the same paths")


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()


def _connect(address: str) -> str:
    """Connects to the cluster, or starts one here; returns its dashboard's "http://...", "" when there is none."""
    start_one = not address and not os.environ.get("RAY_ADDRESS")
    options = {"address": "local", "object_store_memory": LOCAL_OBJECT_STORE} if start_one else {"address": address or None}
    _check_reachable(address)
    on_term = signal.getsignal(signal.SIGTERM)
    try:
        with _silent_stderr():
            dashboard = ray.init(log_to_driver=False, logging_level=logging.CRITICAL, **options).dashboard_url
    except (ConnectionError, RuntimeError, ValueError) as error:
        named = f"--address {address}: " if address else ""
        raise UserError(f"{named}no Ray cluster to work with: {' '.join(str(error).split())[:LONGEST_REASON]}") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_term)  # which Ray has replaced
    return f"http://{dashboard}" if dashboard else ""


def _check_reachable(address: str) -> None:
    """Raises UserError if nothing answers at "HOST:PORT"; Ray itself tries for minutes and prints nothing."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), ANSWER_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise UserError(f"--address {address}: nobody answers there ({error}); is `ray start --head` running?") from error


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Redirects the file descriptor, since Ray's C++ code writes to it directly."""
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
