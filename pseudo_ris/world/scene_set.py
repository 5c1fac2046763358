"""Sets of drawn scenes as arrays, which can be saved and memory-mapped."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from pseudo_ris.errors import UserError
from pseudo_ris.io.terminal import progress
from pseudo_ris.world.scenes import SIZE, Scene, SceneObject, draw_scene

Job = TypeVar("Job")
Result = TypeVar("Result")
_IMAGES, _LABEL_MAPS, _OBJECTS = "images.npy", "label_maps.npy", "objects.json"


@dataclass(frozen=True)
class SceneSet:
    """n drawn scenes. images: RGB uint8 [n, 256, 256, 3]. label_maps: uint8 [n, 256, 256]. objects: one tuple per scene."""

    images: np.ndarray
    label_maps: np.ndarray
    objects: list[tuple[SceneObject, ...]]

    def __len__(self) -> int:
        return len(self.objects)

    def __getitem__(self, index: int) -> Scene:
        return Scene(self.images[index], self.label_maps[index], self.objects[index])

    def __iter__(self) -> Iterator[Scene]:
        return (self[index] for index in range(len(self)))

    def save(self, folder: Path | str) -> None:
        """Writes images.npy, label_maps.npy and objects.json to the folder; creates it if needed."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / _IMAGES, self.images)
        np.save(folder / _LABEL_MAPS, self.label_maps)
        objects = [[asdict(item) for item in scene] for scene in self.objects]
        (folder / _OBJECTS).write_text(json.dumps(objects), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path | str) -> SceneSet:
        """Loads a folder written by `save`; the arrays are memory-mapped read-only. Raises UserError when a file is missing."""
        folder = Path(folder)
        for name in (_IMAGES, _LABEL_MAPS, _OBJECTS):
            if not (folder / name).is_file():
                raise UserError(f"{folder}: has no {name}; write the folder with SceneSet.save")
        raw = json.loads((folder / _OBJECTS).read_text(encoding="utf-8"))
        objects = [tuple(SceneObject(**{**item, "box": tuple(item["box"])}) for item in scene) for scene in raw]
        return cls(np.load(folder / _IMAGES, mmap_mode="r"), np.load(folder / _LABEL_MAPS, mmap_mode="r"), objects)


def build_scene_set(
    split: str, seed: int, count: int, free_forms: bool = False, workers: int = 1, progress: bool = True
) -> SceneSet:
    """Draws scenes 0 .. count - 1 of a split and seed, in `workers` processes. Raises ValueError (see scenes.scene_rng)."""
    images = np.empty((count, SIZE, SIZE, 3), np.uint8)
    label_maps = np.empty((count, SIZE, SIZE), np.uint8)
    objects: list[tuple[SceneObject, ...]] = []
    draw = partial(draw_scene, split, seed, free_forms=free_forms)
    for index, scene in enumerate(map_in_processes(draw, range(count), workers, f"{split} scenes" if progress else "")):
        images[index], label_maps[index] = scene.image, scene.label_map
        objects.append(scene.objects)
    return SceneSet(images, label_maps, objects)


def map_in_processes(
    work: Callable[[Job], Result],
    jobs: Sequence[Job],
    workers: int,
    title: str = "",
    start: Callable[[], None] | None = None,
) -> Iterator[Result]:
    """Yields `work(job)` for each job in order, computed in this process if `workers` is 1, otherwise in `workers` processes.

    title: of the progress bar; "" for no bar. start: called first in each process.
    A script that uses several workers needs the guard `if __name__ == "__main__"`.
    """
    bar = partial(progress, title=title, total=len(jobs), shown=bool(title))
    if workers <= 1:
        if start:
            start()
        yield from bar(map(work, jobs))
        return
    # "spawn": threads of OpenCV and torch do not survive a fork.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), start) as pool:
        yield from bar(pool.map(work, jobs))
