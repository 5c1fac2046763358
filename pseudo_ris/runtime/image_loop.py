"""What a stage's per-image loop asks of the run it is part of, in the command's own process or in a worker of an engine."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

from pseudo_ris.errors import BadInputError, DeviceError, UserError
from pseudo_ris.io.device_faults import gpu_failure, is_out_of_memory, release_cached_memory
from pseudo_ris.records import ImageRecord
from pseudo_ris.runtime.tracebacks import traceback_text

READ_AHEAD = 4
GPU_REMEDY = "run the command again; should it fail again, see nvidia-smi or choose another GPU with CUDA_VISIBLE_DEVICES"

Status = Literal["made", "reused", "known", "left_out", "failed"]


@dataclass(frozen=True)
class Failure:
    """One row of failures.csv. key: hash of what was tried, so that changed input or settings are tried anew.

    An empty key: nothing was hashed, or the worker may be to blame; the next run tries the image again.
    """

    image_id: str
    image: str
    reason: str
    key: str


@dataclass(frozen=True)
class Outcome:
    """How one image ended: the only thing that comes back from a per-image loop.

    status: "made" and "reused": its result is on disk and today's; "known": it failed before, and nothing it depends on has
        changed; "left_out": only failed images are redone, and it was none; "failed": see `reason`.
    image: the record's name. key: as Failure's, "" when the image failed before it was hashed. traceback: of an error that is
    nobody's input's fault. seconds: the image took. worker: who worked on it, "" in the command's own process.
    """

    image: str
    status: Status
    reason: str = ""
    key: str = ""
    traceback: str = ""
    seconds: float = 0.0
    worker: str = ""


class ImageLoop(ABC):
    """Hands a stage its images and turns what happens to each into one Outcome.

    A stage asks `images()` for the images, wraps each in `guard(record)`, asks `is_needed` whether there is work to do and
    says `finished` when the result is on disk.

    device: `device` setting that an engine has chosen for this process; "" leaves the choice to the stage's settings.
    memory_share: share of the device's memory that is this process's, over 0 to 1; other workers have the rest.
    """

    device = ""
    memory_share = 1.0

    def __init__(self, retry_failed: bool) -> None:
        self.retry_failed = retry_failed
        self._key = ""
        self._begun = 0.0

    @abstractmethod
    def images(self) -> Iterator[ImageRecord]:
        """Images to look at, in order; each is begun (`_begin`) before it is handed out."""

    @abstractmethod
    def _known(self, record: ImageRecord) -> Failure | None:
        """What an earlier run says went wrong with the image."""

    @abstractmethod
    def _ended(self, record: ImageRecord, outcome: Outcome) -> None:
        """Notes what became of the image."""

    def is_needed(self, record: ImageRecord, key: str, is_current: bool) -> bool:
        """Whether the image must be worked on. key: hash of all the result depends on; is_current: a result with it exists."""
        self._key = key
        known = self._known(record)
        if is_current:
            self._end(record, "reused")
            return False
        if self.retry_failed:
            if known is None:
                self._end(record, "left_out")
            return known is not None
        if known is not None and known.key == key:
            self._end(record, "known")
            return False
        return True

    @contextmanager
    def guard(self, record: ImageRecord) -> Iterator[None]:
        """Keeps what goes wrong with one image from the others; a UserError concerns the whole run and passes.

        A lack of memory is not remembered as the image's fault: other processes may have had it. Raises DeviceError when the
        GPU fails for good, since it would fail all further images of this process.
        """
        is_short_of_memory = False
        try:
            yield
        except UserError:
            raise
        except BadInputError as error:
            self._end(record, "failed", str(error))
        except Exception as error:
            if is_short_of_memory := is_out_of_memory(error):
                self._key = ""
            elif (failure := gpu_failure()) is not None:
                raise DeviceError(f"{record.name}: {failure}; {GPU_REMEDY}") from error
            self._end(record, "failed", f"{type(error).__name__}: {error}".splitlines()[0], traceback_text(error))
        if is_short_of_memory:  # here and not above, where the error still holds on to the tensors
            release_cached_memory()

    def finished(self, record: ImageRecord) -> None:
        """Notes that the image's result is on disk."""
        self._end(record, "made")

    def _begin(self) -> None:
        self._key, self._begun = "", time.monotonic()

    def _end(self, record: ImageRecord, status: Status, reason: str = "", trace: str = "") -> None:
        seconds = time.monotonic() - self._begun
        self._ended(record, Outcome(record.name, status, reason, self._key, trace, seconds))


def read_ahead(records: Iterable[ImageRecord], count: int = READ_AHEAD) -> Iterator[ImageRecord]:
    """The records, while the files of the next `count` are already being read; `read` gives what came of it."""
    waiting: deque[ImageRecord] = deque()
    with ThreadPoolExecutor(1, "read_ahead") as reader:
        try:
            for record in records:
                waiting.append(replace(record, read=reader.submit(record.read).result))
                if len(waiting) > count:
                    yield waiting.popleft()
            while waiting:
                yield waiting.popleft()
        finally:
            reader.shutdown(cancel_futures=True)
