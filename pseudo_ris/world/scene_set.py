"""Many drawn scenes as arrays: built once, kept on disk, read through memory maps."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pseudo_ris.errors import UserError
from pseudo_ris.world.scenes import SIZE, Scene, SceneObject, draw_scene

_IMAGES, _LABEL_MAPS, _OBJECTS = "images.npy", "label_maps.npy", "objects.json"


@dataclass(frozen=True)
class SceneSet:
    """images: uint8 RGB [n, 256, 256, 3]; label_maps: uint8 [n, 256, 256]; objects: one tuple per scene."""

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
        """Write images.npy, label_maps.npy and objects.json into the folder, which is made when missing."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / _IMAGES, self.images)
        np.save(folder / _LABEL_MAPS, self.label_maps)
        objects = [[asdict(item) for item in scene] for scene in self.objects]
        (folder / _OBJECTS).write_text(json.dumps(objects), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path | str) -> SceneSet:
        """Read a folder written by `save`; the arrays stay on disk and are mapped read-only.

        Raises:
            UserError: the folder lacks one of the three files.
        """
        folder = Path(folder)
        for name in (_IMAGES, _LABEL_MAPS, _OBJECTS):
            if not (folder / name).is_file():
                raise UserError(f"{folder}: no {name}; make the folder with SceneSet.save")
        raw = json.loads((folder / _OBJECTS).read_text(encoding="utf-8"))
        objects = [tuple(SceneObject(**{**item, "box": tuple(item["box"])}) for item in scene) for scene in raw]
        return cls(np.load(folder / _IMAGES, mmap_mode="r"), np.load(folder / _LABEL_MAPS, mmap_mode="r"), objects)


def build_scene_set(
    split: str, seed: int, count: int, free_forms: bool = False, workers: int = 1, progress: bool = True
) -> SceneSet:
    """Draw scenes 0 .. count - 1 of a split and seed; `workers` processes give the same arrays as one.

    With several workers the calling script needs the usual `if __name__ == "__main__"` guard.

    Raises:
        ValueError: unknown split, or a seed out of range (see `scenes.scene_rng`).
    """
    images = np.empty((count, SIZE, SIZE, 3), np.uint8)
    label_maps = np.empty((count, SIZE, SIZE), np.uint8)
    objects: list[tuple[SceneObject, ...]] = []
    draw = partial(draw_scene, split, seed, free_forms=free_forms)
    with _mapper(draw, count, workers) as scenes:
        for index, scene in enumerate(tqdm(scenes, total=count, desc=f"{split} scenes", disable=not progress)):
            images[index], label_maps[index] = scene.image, scene.label_map
            objects.append(scene.objects)
    return SceneSet(images, label_maps, objects)


@contextmanager
def _mapper(draw: partial[Scene], count: int, workers: int) -> Iterator[Iterator[Scene]]:
    if workers <= 1:
        yield map(draw, range(count))
        return
    # Fresh processes: OpenCV's and torch's threads do not survive a fork.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool.map(draw, range(count), chunksize=8)
