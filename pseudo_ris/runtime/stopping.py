"""Ctrl-C and SIGTERM during training: deferred while a step runs, handled at once otherwise."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
ANSWER_SECONDS = 8.0
"""Time after which a process that should stop at once is ended by force."""
POLL_SECONDS = 0.1
GRACE = 5
PR_SET_PDEATHSIG = 1  # of Linux's prctl.h


class StoppedError(BaseException):
    """Raised in the main thread when the process should stop at once. Not an Exception, so that no other code handles it."""


class StopRequest:
    """Records whether this process was asked to end, and by which signal: `signal`, 0 for none.

    Inside `at_once`, a request also raises StoppedError. If that has no effect for ANSWER_SECONDS, because the main thread
    waits in a library for another process or for the disk, the process ends with exit code 128 + signal.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._at_once = False
        self._over = threading.Event()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Signal handler. Torchrun repeats the signal to its processes, so only the first one counts."""
        if self.signal:
            return
        self.signal = number
        if self._at_once:
            raise StoppedError

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside, a signal raises StoppedError, also one that was recorded before."""
        with self._mode(at_once=True):
            if self.signal:
                raise StoppedError
            yield

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, a signal is only recorded."""
        with self._mode(at_once=False):
            yield

    @contextmanager
    def _mode(self, at_once: bool) -> Iterator[None]:
        before, self._at_once = self._at_once, at_once
        try:
            yield
        finally:
            self._at_once = before

    def _end_when_stuck(self, received: int) -> None:
        """Ends the process when it should stop at once and does not. Runs in its own thread.

        Python runs a handler only between two instructions of the main thread, but writes the signal's number to the pipe
        `received` as soon as it arrives.
        """
        number = 0
        while number not in SIGNALS and not self._over.is_set():
            number = os.read(received, 1)[0]
        waited = 0.0
        while waited < ANSWER_SECONDS:
            if self._over.wait(POLL_SECONDS):
                return
            waited = waited + POLL_SECONDS if self._at_once else 0.0
        os.write(2, b"stopped by force; the same command goes on from the last checkpoint\n")
        os._exit(128 + number)


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Turns Ctrl-C and SIGTERM into a StopRequest instead of ending the process. Call it in the main thread."""
    request = StopRequest()
    received, sent = os.pipe()
    os.set_blocking(sent, False)
    previous = {number: signal.signal(number, request) for number in SIGNALS}
    previous_fd = signal.set_wakeup_fd(sent, warn_on_full_buffer=False)
    watch = threading.Thread(target=request._end_when_stuck, args=(received,), daemon=True)
    watch.start()
    try:
        yield request
    finally:
        signal.set_wakeup_fd(previous_fd)
        for number, handler in previous.items():
            signal.signal(number, handler)
        request._over.set()
        os.write(sent, b"\0")  # wakes it
        watch.join()
        os.close(received)
        os.close(sent)


def outlive_stop(worker: int) -> None:
    """Lets a data loader's worker continue for GRACE seconds after a signal, so that the training process can end its step.

    When the training process is killed, the worker ends at once (on Linux), since it shares the lock on the output folder.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "prctl"):
        library.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.set_wakeup_fd(-1)  # the pipe of stop_request is the training process's
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(GRACE))
    # Exit code 0, since any other would end the training process too.
    signal.signal(signal.SIGALRM, lambda number, frame: os._exit(0))
