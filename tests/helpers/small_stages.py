"""Both stages' stores under a real Run, with results that are made up from the image's bytes."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from pseudo_ris.config import SourceConfig
from pseudo_ris.io.files import digest
from pseudo_ris.io.images import list_images
from pseudo_ris.records import CaptionRecord, ImageRecord, MaskCaptions, MaskRecord
from pseudo_ris.runtime.image_loop import Outcome
from pseudo_ris.runtime.runs import Run
from pseudo_ris.runtime.shares import ALL
from pseudo_ris.sources.fingerprints import image_fingerprints
from pseudo_ris.storage.caption_parts import Part, PartStore
from pseudo_ris.storage.compaction.compactor import compacting
from pseudo_ris.storage.mask_store import MaskStore, StoredMasks


def draw_images(folder: Path, names: Sequence[str]) -> Path:
    """Files that only pretend to be images."""
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / f"{name}.jpg").write_bytes(f"image {name}".encode())
    return folder


class Parts:
    """Stage 2: an expression that quotes the image and the settings; every third image has no mask."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, PartStore(folder, "pairs")

    def write(self, record: ImageRecord, key: str, settings: str) -> None:
        text = f"{settings} {record.read().decode()}"
        caption = CaptionRecord(text, "masked", "beam", "ball", 20.5, 21.0, 1.5, 20.5, 1.25, None)
        masks = [MaskCaptions(0, True, (caption,))] if int(key, 16) % 3 else []
        self.store.write(record, key, masks)

    def results(self, records: Sequence[ImageRecord]) -> list[Part]:
        return list(PartStore(self.folder, "pairs").read_all(records))

    def count_loose(self) -> int:
        return len(list(self.store.folder.glob("*.json")))


class Masks:
    """Stage 1: masks that depend on the image and the settings; every third image has none."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, MaskStore(folder)

    def write(self, record: ImageRecord, key: str, settings: str) -> None:
        rng = np.random.default_rng(int(digest(settings, record.read())[:8], 16))
        masks = [
            MaskRecord(seg_id, rng.random((9, 11)) < 0.5, (0, 0, 11, 9), 0.5, "sam")
            for seg_id in range(int(rng.integers(1, 12)) if int(key, 16) % 3 else 0)
        ]
        self.store.write(record, key, masks, 9, 11)

    def results(self, records: Sequence[ImageRecord]) -> list[StoredMasks]:
        store = MaskStore(self.folder)
        return [store.read(record) for record in records if store.is_known(record)]

    def count_loose(self) -> int:
        return len(list((self.folder / "_meta").glob("*.json"))) + sum(
            path.is_dir() for path in self.folder.iterdir() if path.name != "_meta"
        )


Stage = Parts | Masks


def run_stage(
    stage: Stage,
    images: Path,
    size: int,
    *,
    settings: str = "a",
    bad: Sequence[str] = (),
    retry: bool = False,
    seed: int | None = None,
    each: Callable[[ImageRecord], None] = lambda record: None,
) -> Run:
    """A run of the stage; images end in list order, or with `seed` in any. `each` is called with every image looked at."""
    records = list_images(images)
    look = image_fingerprints(SourceConfig(images=str(images)), settings)
    with (
        stage.store.working(ALL),
        compacting(stage.store, records, size, ALL, lambda: look) as keeper,
        Run("test", stage.folder, records, retry, ALL, keeper) as run,
    ):
        waiting = run.usable()
        if seed is not None:
            random.Random(seed).shuffle(waiting)
        for record in waiting:
            each(record)
            run.take(record, work_on(stage, record, settings, bad, retry, run))
        run.close()
    return run


def work_on(stage: Stage, record: ImageRecord, settings: str, bad: Sequence[str], retry: bool, run: Run) -> Outcome:
    """As a worker does it: a store of its own, nothing but the outcome comes back."""
    worker = type(stage)(stage.folder)
    key = digest(settings, record.read())
    if worker.store.is_current(record, key):
        return Outcome(record.name, "reused", key=key)
    if retry and record.name not in run.failures:
        return Outcome(record.name, "left_out", key=key)
    if record.image_id in bad:
        return Outcome(record.name, "failed", "is bad", key)
    worker.write(record, key, settings)
    return Outcome(record.name, "made", key=key)


def contents(folder: Path) -> dict[str, bytes]:
    """All files with their bytes, locks left out."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".lock"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def copy_of(stage: Stage, folder: Path) -> Stage:
    """The stage on a copy of its files."""
    shutil.copytree(stage.folder, folder)
    return type(stage)(folder)
