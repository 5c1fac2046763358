"""Keeps one worker process running and restarts it after a failure."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path
from threading import Lock

from pseudo_ris.errors import EXIT_TERMINATED
from pseudo_ris.runtime.engine.job import Died, GpuFailed, HandedBack, Job, Report, Stopped, Task
from pseudo_ris.runtime.image_loop import Outcome

ROOT = Path(__file__).parents[3]
VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"
LAST_WORDS = 2000
ENDING_SECONDS = 5.0
STARTS = 3
"""How often a worker process is started that never gets to its first image, or whose GPU fails before it has made one."""
START_SECONDS = 600.0
"""Default of the time until a process is ready."""


class Supervisor:
    """One worker process: starts it, hands it one image at a time and says what became of the image.

    A worker with a GPU is retired, which means that no process is started any more, when processes cannot be started, are not
    ready in time, or STARTS of them in a row lose the GPU before they have made an image: other workers then have the images.

    Args:
        name: of the worker, for a person. environment: variables set for it beside this process's own.
        time_limit: seconds for an image, the first of a process's with the loading of its models; 0 is none.
        start_limit: seconds until a process is ready for its first image; 0 is none.
    """

    def __init__(
        self,
        job: Job,
        name: str,
        time_limit: float,
        environment: dict[str, str] | None = None,
        start_limit: float = START_SECONDS,
    ) -> None:
        self.job, self.name, self.time_limit, self.start_limit = job, name, time_limit, start_limit
        self.is_retired = False
        self._environment = dict(environment or {})
        visible = self._environment.get(VISIBLE_GPUS, os.environ.get(VISIBLE_GPUS, "all"))
        self._gpu = f"{socket.gethostname()}: {visible}"
        if job.threads:
            self._environment["OMP_NUM_THREADS"] = str(job.threads)
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = self._has_made = False
        self._gpu_failures = 0
        self._starting_or_ending = Lock()

    @property
    def is_alive(self) -> bool:
        """Whether its process is running; safe to ask in any thread."""
        process = self._process
        return process is not None and process.poll() is None

    def work_on(self, task: Task) -> Report:
        """Has the worker look at an image, and waits for what comes of it; starts a process where there is none."""
        if self.is_retired:
            return HandedBack(task.record.name)
        if (trouble := self._ensure_started(task)) is not None:
            return trouble
        try:
            self._connection.send(task)
            if not self._connection.poll(self.time_limit or None):
                self.kill()
                return self._failed(task, f"took longer than --image-timeout {self.time_limit:g} s")
            report = self._connection.recv()
        except (EOFError, OSError):
            return self._died(task)
        if isinstance(report, GpuFailed):
            return self._lost_gpu(task, report.message)
        if isinstance(report, Stopped):
            return report
        if report.status == "made":
            self._has_made, self._gpu_failures = True, 0
        return replace(report, worker=self.name)

    def terminate(self) -> None:
        """Tells the process to end; it gives up the image it has, and no other is started."""
        with self._starting_or_ending:
            self._ended = True
            if self._process is not None:
                self._process.terminate()

    def close(self, seconds: float = ENDING_SECONDS) -> None:
        """Waits until the process has ended, which it was told to or is about to; killed when it does not end in time."""
        if self._process is None:
            return
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Ends the process without asking."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _ensure_started(self, task: Task) -> Report | None:
        """Starts a process and waits until it asks for images; returns what is to be reported when none can be had."""
        problem = ""
        for _ in range(STARTS):
            if self.is_alive:
                return None
            with self._starting_or_ending:
                if self._ended:
                    return Stopped(task.record.name, "its worker was told to end")
                self._start()
            try:
                self._connection.send(self.job)
                if not self._connection.poll(self.start_limit or None):
                    self.kill()
                    problem = f"was not ready within --start-timeout {self.start_limit:g} s ({self._last_words()})"
                    break
                said = self._connection.recv()
            except (EOFError, OSError):
                self.kill()
                problem = f"ended {STARTS} times before its first image ({self._last_words()})"
                continue
            match said:
                case Stopped(message=message):
                    return Stopped(task.record.name, message)
                case GpuFailed(message=problem):
                    self.kill()
                case _:
                    return None
        return self._cannot_start(task, problem)

    def _cannot_start(self, task: Task, problem: str) -> Report:
        if not self.job.device:
            return Stopped(task.record.name, f"a worker {problem}; remove the cause and run the command again")
        self.is_retired = True
        return Died(task.record.name, f"its worker: {problem}", False, self.name, self._gpu, retired=True)

    def _start(self) -> None:
        self._forget()
        self._connection, theirs = Pipe()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the process)
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pseudo_ris.runtime.engine.worker", str(theirs.fileno())],
            env=os.environ | {"PYTHONPATH": path} | self._environment,
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        theirs.close()

    def _forget(self) -> None:
        """Lets go of a process that has ended."""
        if self._process is not None:
            self._connection.close()
            self._log.close()
            self._process = None

    def _died(self, task: Task) -> Died:
        """The process is gone, or as good as: its end of the connection is closed."""
        self.close()
        code = self._process.returncode if self._process else None
        blamed = code not in (-signal.SIGTERM, EXIT_TERMINATED)
        return Died(task.record.name, f"its worker ended with {_in_words(code)} ({self._last_words()})", blamed, self.name)

    def _lost_gpu(self, task: Task, message: str) -> Died:
        """The process cannot use its GPU any more. Where the worker has never made an image, the image is not to blame."""
        self.close()
        self._gpu_failures += 1
        self.is_retired = self._gpu_failures == STARTS
        reason = message.removeprefix(f"{task.record.name}: ")
        return Died(task.record.name, reason, self._has_made, self.name, self._gpu, retired=self.is_retired)

    def _failed(self, task: Task, reason: str) -> Outcome:
        return Outcome(task.record.name, "failed", f"{task.record.name}: {reason}", seconds=self.time_limit, worker=self.name)

    def _last_words(self) -> str:
        """The last line that the process wrote."""
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - LAST_WORDS))
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


def _in_words(code: int | None) -> str:
    """An exit code of subprocess, for a person: "SIGKILL", "exit code 1"."""
    names = {-each.value: each.name for each in signal.Signals}
    return names.get(code or 0, f"exit code {code}")
