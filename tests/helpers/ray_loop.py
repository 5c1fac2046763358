"""Per-image loops for tests of `--engine ray`: what is done to an image is the image's name."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

from pseudo_ris.runtime.image_loop import ImageLoop


def lossy(config: SimpleNamespace, images: ImageLoop) -> None:
    """Writes where it runs into `<folder>/<image id>.txt`; some images first kill the Ray worker, its parent."""
    folder = Path(config.folder)
    for image in images.images():
        with images.guard(image):
            path = folder / f"{image.image_id}.txt"
            if images.is_needed(image, "k", path.exists()):
                kind, marker = image.name.split("-")[0], folder / f".{image.name}"
                if kind == "orphan" or (kind == "orphaned" and not marker.exists()):
                    marker.touch()
                    os.kill(os.getppid(), signal.SIGKILL)
                    time.sleep(60)
                if kind in ("slow", "nap"):
                    marker.write_text(str(os.getpid()))
                    time.sleep(60 if kind == "slow" else 0.4)
                shown = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
                path.write_text(" ".join([*(os.environ.get(name, "") for name in shown), str(Path.cwd()), str(os.getppid())]))
                images.finished(image)
