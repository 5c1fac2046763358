"""A per-image loop without models for tests of the engines: what it does to an image is the image's name."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

from pseudo_ris.errors import BadInputError, DeviceError, UserError
from pseudo_ris.io.files import write_atomic
from pseudo_ris.records import ImageRecord
from pseudo_ris.runtime.image_loop import ImageLoop


def settings(folder: Path, **changes) -> SimpleNamespace:
    defaults = {"retry_failed": False, "key": "k", "stop": "", "image_timeout": 0.0, "start_timeout": 60.0}
    return SimpleNamespace(**{"folder": str(folder), **defaults, **changes})


def record(name: str) -> ImageRecord:
    return ImageRecord(name, name, name.encode)


def tiny(config: SimpleNamespace, images: ImageLoop) -> None:
    """Writes `<folder>/<image id>.txt`, unless the name says something else."""
    if config.stop:
        raise UserError(config.stop)
    for image in images.images():
        with images.guard(image):
            path = Path(config.folder) / f"{image.image_id}.txt"
            if images.is_needed(image, config.key, path.exists()):
                misbehave(image.name, Path(config.folder))
                write_atomic(path, image.read())
                images.finished(image)


def misbehave(name: str, folder: Path) -> None:
    match name.split("-")[0]:
        case "bad":
            raise BadInputError(f"{name}: is bad")
        case "broken":
            raise ZeroDivisionError("oops")
        case "stop":
            raise UserError("the disk is full")
        case "halt":  # as soon as another worker has begun "slow"
            while not (folder / ".slow").exists() or not (folder / ".slow").read_text():
                time.sleep(0.05)
            raise UserError("the disk is full")
        case "exit":
            print("last words", flush=True)
            os._exit(7)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "crash":
            ctypes.string_at(0)
        case "term":
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        case "once" if not (folder / f".{name}").exists():
            (folder / f".{name}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        case "gpu":  # breaks the worker's GPU
            raise DeviceError(f"{name}: GPU cuda:0 failed")
        case "picky" if os.environ.get("CUDA_VISIBLE_DEVICES") == "1":  # finds one GPU broken
            raise DeviceError(f"{name}: GPU cuda:0 failed")
        case "slow":
            (folder / f".{name}").write_text(str(os.getpid()))
            time.sleep(60)
