"""Keeps one worker process at work, whatever happens to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path
from threading import Lock

from pseudo_ris.engine.job import Died, Job, Report, Stopped, Task
from pseudo_ris.errors import EXIT_TERMINATED
from pseudo_ris.image_loop import Outcome

ROOT = Path(__file__).parents[2]
LAST_WORDS = 2000
ENDING_SECONDS = 5.0
STARTS = 3
"""How often a worker process is started before the run is given up because it never got to its first image."""


class Supervisor:
    """One worker process: starts it, hands it one image at a time and says what became of the image.

    Args:
        name: of the worker, for a person. environment: variables set for it beside this process's own.
        time_limit: seconds for an image, the first of a process's with the loading of its models; 0 is none.
    """

    def __init__(self, job: Job, name: str, time_limit: float, environment: dict[str, str] | None = None) -> None:
        self.job, self.name, self.time_limit = job, name, time_limit
        self._environment = dict(environment or {})
        if job.threads:
            self._environment["OMP_NUM_THREADS"] = str(job.threads)
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = False
        self._starting_or_ending = Lock()

    @property
    def is_alive(self) -> bool:
        """Whether its process is running; safe to ask in any thread."""
        process = self._process
        return process is not None and process.poll() is None

    def work_on(self, task: Task) -> Report:
        """Has the worker look at an image, and waits for what comes of it; starts a process where there is none."""
        if (problem := self._ensure_started()) is not None:
            return Stopped(task.record.name, problem)
        try:
            self._connection.send(task)
            if not self._connection.poll(self.time_limit or None):
                self.kill()
                return self._failed(task, f"took longer than --image-timeout {self.time_limit:g} s")
            report = self._connection.recv()
        except (EOFError, OSError):
            return self._died(task)
        return report if isinstance(report, Stopped) else replace(report, worker=self.name)

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

    def _ensure_started(self) -> str | None:
        """Starts a process and waits until it asks for images; returns what is wrong when none can be had."""
        for _ in range(STARTS):
            if self.is_alive:
                return None
            with self._starting_or_ending:
                if self._ended:
                    return "its worker was told to end"
                self._start()
            try:
                self._connection.send(self.job)
                said = self._connection.recv()
            except (EOFError, OSError):
                self.kill()
                continue
            if isinstance(said, Stopped):
                return said.message
        if self.is_alive:
            return None
        return f"a worker ended {STARTS} times before its first image ({self._last_words()}); mend it and run the command again"

    def _start(self) -> None:
        self._forget()
        self._connection, theirs = Pipe()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the process)
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pseudo_ris.engine.worker", str(theirs.fileno())],
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
