"""`--engine ray`: workers on the machines of a Ray cluster, fed by Ray Data.

The only module that imports Ray. All machines must have this checkout, the same Python environment and the run's files at the
same paths. What happens when something breaks: the child process of a worker is restarted by its Supervisor, a worker by Ray,
where there is room for it; the images that it had are missing from this round's reports and are tried again in the next.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

import pyarrow as pa

from pseudo_ris.config import EngineConfig
from pseudo_ris.errors import UserError
from pseudo_ris.runtime.engine.job import Died, Job, Report, Stopped, Task
from pseudo_ris.runtime.engine.ray_share import Share, share_of
from pseudo_ris.runtime.engine.supervisor import Supervisor

# Ray reads them when it is imported or started: no reports to its makers, no lines of its own on the terminal.
for _variable, _value in (
    ("RAY_USAGE_STATS_ENABLED", "0"),
    ("RAY_BACKEND_LOG_LEVEL", "fatal"),
    ("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"),
):
    os.environ.setdefault(_variable, _value)
try:
    import ray
    import ray.data
    from ray.data._internal.execution.execution_callback import ExecutionCallback
    from ray.util.annotations import RayDeprecationWarning
except ImportError as error:
    raise UserError(f'--engine ray needs Ray ({error}): pip install "pseudo-ris[scale]"') from error

ANSWER_SECONDS = 10.0
START_SECONDS = 300.0
"""How long nobody may be at work, at the start or after a loss, before a pass over the images is given up."""
IMAGES_OF_A_PASS = 5_000
"""For each worker; a pass starts its workers anew, and takes those of machines that have come."""
LARGEST_PASS = 1_000_000
LARGEST_BUNDLE = 64
BUNDLES_OF_A_WORKER = 32
"""At least so many in a pass, so that at its end no worker waits long for the others."""
BUNDLES_IN_FLIGHT = 2
"""A worker's, where they have more than one image: the next one waits with the worker."""
REPORT_SECONDS = 1.0
REPORTS_A_SECOND = 100
"""Of all workers together: each table of reports takes the driver some two milliseconds."""
STARTS_OF_A_WORKER = 3
HAND_BACK_SECONDS = 10.0
"""How long a worker that is out of service keeps what it is given: it must not take the images of those that work, but hold
its GPU, so that Ray starts no other worker there."""
LOCAL_OBJECT_STORE = 256 << 20
LONGEST_REASON = 300
TASK, REPORTS = "task", "reports"


class WorkersLostError(Exception):
    """Nobody has been at work for START_SECONDS. any_worked: somebody was, before."""

    def __init__(self, any_worked: bool) -> None:
        super().__init__("no worker is left")
        self.any_worked = any_worked


class RayEngine:
    """Workers on a Ray cluster while it is entered. Raises UserError when there is no cluster, or none that can do the work."""

    name = "ray"

    def __init__(self, job: Job, config: EngineConfig, needed_on_cpu: Callable[[], int]) -> None:
        """needed_on_cpu: gives the bytes of memory that a worker takes on a CPU."""
        self.dashboard = ""
        self._config, self._needed_on_cpu = config, cache(needed_on_cpu)
        # Ray sets the variable itself, so it has to be read before.
        self._job = replace(job, threads=int(os.environ.get("OMP_NUM_THREADS", 0)))
        self._share = Share(0, 0.0, 0.0, 0)
        self._lost: set[str] = set()
        self._retired = 0

    def __enter__(self) -> RayEngine:
        _quieten()
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
        _Watch.stop()
        ray.shutdown()

    @property
    def count(self) -> int:
        """Workers that the cluster has room for, or that were asked for."""
        return self._share.count

    @property
    def alive(self) -> int:
        """Workers that are at work."""
        return _Watch.at_work

    @property
    def in_service(self) -> int:
        """Workers that take images: all but those of this pass that were reported as retired."""
        return self.count - self._retired

    def reports(self, tasks: Sequence[Task]) -> Iterator[Report]:
        """What comes of the tasks, as it comes; none for a task that was lost with the worker that had it.

        A task that had been lost before and is lost again, alone with its worker this time, is reported as Died.
        """
        start = 0
        while start < len(tasks):
            self._look_at_machines()
            part = tasks[start : start + min(LARGEST_PASS, self.count * IMAGES_OF_A_PASS)]
            start += len(part)
            yield from self._pass_over(part)

    def _pass_over(self, tasks: Sequence[Task]) -> Iterator[Report]:
        self._retired = 0
        waiting = {task.record.name for task in tasks}
        suspects = waiting & self._lost
        try:
            for report in self._stream(tasks, alone=bool(suspects)):
                waiting.discard(report.image)
                self._retired += isinstance(report, Died) and report.retired
                yield report
        except WorkersLostError as error:
            if error.any_worked:
                return
            raise UserError(
                f"Ray has started none of {self.count} workers in {START_SECONDS:g} s, each with {self._share}; see whether "
                "the cluster is at work for others, or give --workers or --gpus-per-worker that it has room for"
            ) from error
        except ray.exceptions.RayError as error:
            last_line = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
            raise UserError(f"Ray cannot go on: {last_line}") from error
        finally:
            _Watch.stop()
        self._lost |= waiting
        for name in sorted(waiting & suspects):
            yield Died(name, "its Ray worker was lost while it had no other image", blamed=True)

    def _stream(self, tasks: Sequence[Task], alone: bool) -> Iterator[Report]:
        """alone: a worker holds no more than one image at a time."""
        share = self._share
        rows = 1 if alone else bundle_size(len(tasks), share.count)
        bundles = [tasks[start : start + rows] for start in range(0, len(tasks), rows)]
        tables = [_table(TASK, [pickle.dumps(task) for task in bundle]) for bundle in bundles]
        context = _context(share.count)
        job = replace(
            self._job,
            threads=self._job.threads or share.threads,
            device="cuda" if share.gpus else "",
            memory_share=share.memory_share,
        )
        report_seconds = max(REPORT_SECONDS, share.count / REPORTS_A_SECOND)
        with ray.data.DataContext.current(context):
            reports = ray.data.from_arrow(tables).map_batches(
                _Worker,
                fn_constructor_args=(job, str(Path.cwd()), report_seconds),
                batch_size=rows,
                batch_format="pyarrow",
                # Where there are few images, none waits behind another.
                compute=ray.data.ActorPoolStrategy(
                    size=min(share.count, len(tables)), max_tasks_in_flight_per_actor=1 if rows == 1 else BUNDLES_IN_FLIGHT
                ),
                num_cpus=share.cpus,
                num_gpus=share.gpus,
                # Ray starts a lost worker again where there is room, but fails its tasks: they could wait for ever.
                max_restarts=-1,
                max_task_retries=0,
            )
            _Watch.begin()
            for bundle in reports.iter_internal_ref_bundles():
                for entry in bundle.blocks:
                    yield from _read(entry.ref)

    def _look_at_machines(self) -> None:
        """Takes the share that a worker gets from the machines there are; where all with GPUs are away, it is left alone."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not self._share.gpus or any(node.get("GPU") for node in nodes):
            self._share = share_of(nodes, self._config, self._needed_on_cpu)


def bundle_size(images: int, workers: int) -> int:
    """How many images go to a worker at once."""
    return max(1, min(LARGEST_BUNDLE, images // (workers * BUNDLES_OF_A_WORKER)))


class _Worker:
    """What an actor of Ray Data does with a batch: hands the tasks in it to the process that its Supervisor keeps."""

    def __init__(self, job: Job, folder: str, report_seconds: float) -> None:
        self._report_seconds = report_seconds
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._missing = next((path for path in (folder, job.recipe) if not Path(path).exists()), None)
        if self._missing is None:
            os.chdir(folder)  # paths in settings are relative to it
        self._supervisor = Supervisor(job, self._name, job.config.image_timeout, start_limit=job.config.start_timeout)
        # A worker's process ends with the thread that started it, so it has one thread of its own.
        self._thread = ThreadPoolExecutor(1, "supervisor")

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """Reports that come within `report_seconds` go back together, in one row: Ray Data hands on rows one by one."""
        if self._supervisor.is_retired:
            time.sleep(HAND_BACK_SECONDS)
        reports, begun = [], time.monotonic()
        for data in batch[TASK].to_pylist():
            reports.append(self._thread.submit(self._work_on, pickle.loads(data)).result())
            if time.monotonic() - begun > self._report_seconds:
                yield _table(REPORTS, [pickle.dumps(reports)])
                reports, begun = [], time.monotonic()
        if reports:
            yield _table(REPORTS, [pickle.dumps(reports)])

    def _work_on(self, task: Task) -> Report:
        if self._missing is None:
            return self._supervisor.work_on(task)
        place = f"{socket.gethostname()} of the Ray cluster has no {self._missing}"
        return Stopped(task.record.name, f"{place}: all its machines need this checkout and the run's files at the same paths")


class _Watch(ExecutionCallback):
    """Sees that somebody is at work on the pass that is going on; Ray Data itself would wait for ever.

    Ray Data makes its own instances of the class, so what they share with the driver is the class's.
    """

    at_work: ClassVar[int] = 0
    _executor: ClassVar[Any] = None
    _any_worked: ClassVar[bool] = False
    _last_at_work: ClassVar[float] = 0.0

    @classmethod
    def begin(cls) -> None:
        """A pass begins."""
        cls.at_work, cls._any_worked, cls._last_at_work = 0, False, time.monotonic()

    @classmethod
    def stop(cls) -> None:
        """Ends the workers of the pass at once, if it has not come to its end."""
        executor, cls._executor, cls.at_work = cls._executor, None, 0
        if executor is not None:
            executor.shutdown(force=True)

    def before_execution_starts(self, executor: Any) -> None:
        """Called by Ray Data."""
        type(self)._executor = executor

    def on_execution_step(self, executor: Any) -> None:
        """Called by Ray Data several times a second. Raises WorkersLostError."""
        pools = [pool for operator in executor._topology for pool in operator.get_autoscaling_actor_pools()]
        cls = type(self)
        cls.at_work = sum(pool.get_actor_info().active for pool in pools)
        if cls.at_work:
            cls._any_worked, cls._last_at_work = True, time.monotonic()
        elif time.monotonic() - cls._last_at_work > START_SECONDS:
            raise WorkersLostError(cls._any_worked)


def _context(workers: int) -> ray.data.DataContext:
    """Settings of Ray Data: tables go back as they are yielded, lost ones are left out, nothing is printed."""
    context = ray.data.DataContext.get_current().copy()
    context.max_errored_blocks = -1
    context.max_consecutive_actor_init_deaths = STARTS_OF_A_WORKER * workers
    context.target_max_block_size = 1
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.issue_detectors_config.detectors = []
    context.custom_execution_callback_classes = [_Watch]
    return context


def _table(name: str, rows: list[bytes]) -> pa.Table:
    return pa.table({name: pa.array(rows, pa.binary())})


def _read(block: ray.ObjectRef) -> list[Report]:
    """The reports in a block; none when it was lost with its machine."""
    try:
        rows = ray.get(block, timeout=START_SECONDS)[REPORTS].to_pylist()
    except ray.exceptions.RayError:
        return []
    return [report for data in rows for report in pickle.loads(data)]


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
    """Ray itself tries for minutes, without a word. Raises UserError when nobody answers at "HOST:PORT"."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), ANSWER_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise UserError(f"--address {address}: nobody answers there ({error}); is `ray start --head` running?") from error


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Ray's C++ code writes to the file itself."""
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _quieten() -> None:
    """Keeps Ray Data's messages off the terminal; they are in the files of its session."""
    warnings.filterwarnings("ignore", category=RayDeprecationWarning)
    logger = logging.getLogger("ray.data")
    logger.handlers = [handler for handler in logger.handlers if not isinstance(handler, logging.StreamHandler)]
