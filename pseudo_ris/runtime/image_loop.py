"""The interface between a stage's per-image loop and its run, in the command's process or in a worker of an engine."""

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
    """One row of failures.csv. key: hash of input and settings; when it changes, the image is tried again.

    An empty key means that nothing was hashed or that the worker may be at fault; the next run tries the image again.
    """

    image_id: str
    image: str
    reason: str
    key: str


@dataclass(frozen=True)
class Outcome:
    """The outcome of one image.

    status: "made" and "reused": the result on disk is current; "known": the image failed before, and nothing that it depends on
        has changed; "left_out": `--retry-failed` is set and the image had not failed; "failed": see `reason`.
    image: the record's name. key: as in Failure, "" if the image failed before it was hashed. traceback: of an error that the
    input did not cause. seconds: time spent. worker: name of the worker, "" for the command's own process.
    """

    image: str
    status: Status
    reason: str = ""
    key: str = ""
    traceback: str = ""
    seconds: float = 0.0
    worker: str = ""


class ImageLoop(ABC):
    """Gives a stage its images and turns what happens to each into one Outcome.

    A stage iterates over `images()`, wraps each image in `guard(record)`, calls `is_needed` to see whether there is work to do,
    and `finished` when the result is on disk.

    device: the `device` setting that an engine has chosen for this process; "": the stage's own setting.
    memory_share: share of the device's memory that this process may use, over 0 to 1.
    """

    device = ""
    memory_share = 1.0

    def __init__(self, retry_failed: bool) -> None:
        self.retry_failed = retry_failed
        self._key = ""
        self._begun = 0.0

    @abstractmethod
    def images(self) -> Iterator[ImageRecord]:
        """The images to process, in order; implementations call `_begin` before they yield one."""

    @abstractmethod
    def _known(self, record: ImageRecord) -> Failure | None:
        """The image's failure in an earlier run, if any."""

    @abstractmethod
    def _ended(self, record: ImageRecord, outcome: Outcome) -> None:
        """Records the outcome of the image."""

    def is_needed(self, record: ImageRecord, key: str, is_current: bool) -> bool:
        """True if the image must be processed. key: hash of all that the result depends on; is_current: a result exists."""
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
        """Turns errors of one image into its outcome. A UserError concerns the whole run and is not caught.

        Out of memory is not remembered as the image's fault: other processes may have used the memory. Raises DeviceError when
        the GPU fails permanently, since all further images of this process would fail.
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
        if is_short_of_memory:  # not in the handler above, where the error still refers to the tensors
            release_cached_memory()

    def finished(self, record: ImageRecord) -> None:
        """Records that the image's result is on disk."""
        self._end(record, "made")

    def _begin(self) -> None:
        self._key, self._begun = "", time.monotonic()

    def _end(self, record: ImageRecord, status: Status, reason: str = "", trace: str = "") -> None:
        seconds = time.monotonic() - self._begun
        self._ended(record, Outcome(record.name, status, reason, self._key, trace, seconds))


def read_ahead(records: Iterable[ImageRecord], count: int = READ_AHEAD) -> Iterator[ImageRecord]:
    """Yields the records while a thread reads the files of the next `count`; `read` then returns the content."""
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
