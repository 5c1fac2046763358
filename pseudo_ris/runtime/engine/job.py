"""Messages to and from workers."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pseudo_ris.records import ImageRecord
from pseudo_ris.runtime.image_loop import Failure, ImageLoop, Outcome

Loop = Callable[[Any, ImageLoop], None]
"""A recipe's per-image loop: `loop(config, images)`."""


@dataclass(frozen=True)
class Job:
    """The per-image loop that all workers of a run run.

    recipe: file that defines it, at the same path on every machine. loop: name of the function in it. config: the stage's
    settings. threads: OMP_NUM_THREADS of a worker, 0 leaves it alone. device, memory_share: as ImageLoop's; with a `device` the
    engine has given each worker a GPU.
    """

    recipe: str
    loop: str
    config: Any
    threads: int = 0
    device: str = ""
    memory_share: float = 1.0

    @classmethod
    def of(cls, loop: Loop, config: Any) -> Job:
        """The job of a function at the top level of a file."""
        return cls(str(Path(inspect.getfile(loop)).resolve()), loop.__name__, config)

    def load_loop(self) -> Loop:
        """The function, in another process than the one that made the job."""
        spec = importlib.util.spec_from_file_location("pseudo_ris_recipe", self.recipe)
        if spec is None or spec.loader is None:
            raise ImportError(f"{self.recipe}: no Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return getattr(module, self.loop)


@dataclass(frozen=True)
class Task:
    """One image to look at. known: what an earlier run says went wrong with it."""

    record: ImageRecord
    known: Failure | None = None


@dataclass(frozen=True)
class Died:
    """The worker's process ended, or was ended, while it had the image.

    reason: for a person. blamed: the image may have caused it; not so when the process was told to end (SIGTERM), or when its
    GPU failed and the worker had not made an image before. gpu: the GPU that failed, "" if none did; workers may share one.
    retired: so often, or in such a way, that the worker stays out of service.
    """

    image: str
    reason: str
    blamed: bool
    worker: str = ""
    gpu: str = ""
    retired: bool = False


@dataclass(frozen=True)
class HandedBack:
    """The worker is out of service and has not looked at the image."""

    image: str


@dataclass(frozen=True)
class GpuFailed:
    """What a worker's process says before it ends: the message of a DeviceError."""

    message: str


@dataclass(frozen=True)
class Stopped:
    """The whole run cannot continue: the message of a UserError."""

    image: str
    message: str


Report = Outcome | Died | HandedBack | Stopped
"""What comes back for a task."""
