"""A per-image loop whose models are a wait of known length, to see what an engine itself costs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import SimpleNamespace

from pseudo_ris.runtime.image_loop import ImageLoop, Outcome


def settings(engine: str, workers: int, wait: float) -> SimpleNamespace:
    """What the loop and an engine ask of a stage's settings; of a class that a worker has without importing anything."""
    return SimpleNamespace(
        device="cpu",
        engine=engine,
        workers=workers,
        gpus_per_worker=1.0,
        address="",
        image_timeout=0.0,
        start_timeout=0.0,
        retry_failed=False,
        wait=wait,
    )


def wait_for_images(config: SimpleNamespace, images: ImageLoop) -> None:
    """Waits `config.wait` seconds for each image. Its key says when it was begun and what the process had done by then."""
    for record in images.images():
        with images.guard(record):
            if images.is_needed(record, f"{time.monotonic()} {time.process_time()}", is_current=False):
                time.sleep(config.wait)
                images.finished(record)


@dataclass(frozen=True)
class Beginning:
    """When a worker began an image: on the machine's monotonic clock, and CPU seconds of its process until then."""

    at: float
    cpu: float

    @classmethod
    def of(cls, outcome: Outcome) -> Beginning:
        """What `wait_for_images` noted in the key."""
        return cls(*map(float, outcome.key.split()))
