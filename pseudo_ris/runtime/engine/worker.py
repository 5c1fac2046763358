"""A worker's process: runs a recipe's per-image loop on the images it is handed.

Started as `python -m pseudo_ris.runtime.engine.worker FD`; FD is the file descriptor of a connection.
"""

from __future__ import annotations

import ctypes
import signal
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection
from types import FrameType

from pseudo_ris.errors import EXIT_TERMINATED, DeviceError, UserError
from pseudo_ris.io.deferred_imports import leave_out_transformers
from pseudo_ris.io.gc_tuning import no_collection, set_aside
from pseudo_ris.records import ImageRecord
from pseudo_ris.runtime.engine.job import GpuFailed, Job, Stopped, Task
from pseudo_ris.runtime.image_loop import Failure, ImageLoop, Outcome

READY = "ready"
# linux/prctl.h
PR_SET_PDEATHSIG = 1


class HandedImages(ImageLoop):
    """The images that come through a connection, one at a time; the outcome of each goes back through it."""

    def __init__(self, connection: Connection, job: Job) -> None:
        super().__init__(job.config.retry_failed)
        self.device, self.memory_share = job.device, job.memory_share
        self._connection = connection
        self._task: Task | None = None

    def images(self) -> Iterator[ImageRecord]:
        """The images handed in, until there are no more."""
        self._connection.send(READY)
        while (task := self._connection.recv()) is not None:
            self._task = task
            self._begin()
            yield task.record

    @property
    def image(self) -> str:
        """Name of the image that is worked on, "" before the first."""
        return self._task.record.name if self._task else ""

    def _known(self, record: ImageRecord) -> Failure | None:
        return self._task.known if self._task else None

    def _ended(self, record: ImageRecord, outcome: Outcome) -> None:
        self._connection.send(outcome)


def work(connection: Connection) -> None:
    """Receives a job, then its tasks; sends READY and an Outcome for each task.

    It ends after it has sent GpuFailed, when its GPU fails, or Stopped, when the run cannot go on.
    """
    job: Job = connection.recv()
    images = HandedImages(connection, job)
    try:
        with no_collection():
            loop = job.load_loop()
        set_aside()
        loop(job.config, images)
    except DeviceError as error:
        connection.send(GpuFailed(str(error)))
    except UserError as error:
        connection.send(Stopped(images.image, str(error)))


def end_with_parent() -> None:
    """Has the system end this process when its parent ends for any reason, so that no two processes work on an image.

    Where that is not to be had (no Linux) the process ends with its image, when it cannot report it.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _terminate(number: int, frame: FrameType | None) -> None:
    """Gives the image up at once: what is half-written has another name and is cleared by the next run."""
    sys.exit(EXIT_TERMINATED)


def main(argv: list[str]) -> None:
    end_with_parent()
    leave_out_transformers()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C reaches all processes of a terminal; the driver decides
    signal.signal(signal.SIGTERM, _terminate)
    try:
        work(Connection(int(argv[0])))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        sys.exit(EXIT_TERMINATED)  # nobody is there any more to work for


if __name__ == "__main__":
    main(sys.argv[1:])
