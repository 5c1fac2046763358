"""Draws a small REFER data set of the drawn world, like RefCOCO (`pseudo-ris lab refer-world`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path

import cv2
import numpy as np

from pseudo_ris.errors import UserError
from pseudo_ris.formats.outputs import new_place
from pseudo_ris.formats.refer_set import write_refer
from pseudo_ris.io.files import write_atomic
from pseudo_ris.pairs.pair_set import PairImage, PairObject, Rle
from pseudo_ris.ris.data.splits import KINDS
from pseudo_ris.world.grammar import parse, referents, sample_positional_expression
from pseudo_ris.world.scene_set import SceneSet, build_scene_set
from pseudo_ris.world.scenes import Scene, SceneObject, scene_rng

DATASET = "drawn"
SCENE_SPLITS = {"train": "train", "val": "validation", "test": "evaluation"}
"""Folder of images -> split of scenes from which it is drawn."""
LIVING = frozenset({"duck", "fish", "flower", "mushroom", "tree"})
SPLITS: dict[str, tuple[str, Callable[[SceneObject], bool]]] = {
    "train": ("train", lambda obj: True),
    "val": ("val", lambda obj: True),
    "testA": ("test", lambda obj: obj.category in LIVING),
    "testB": ("test", lambda obj: obj.category not in LIVING),
}
"""Split of the set -> its folder of images, and which objects its expressions refer to."""

FIRST_SCENE_SEED = 100
"""Scene seed for seed 0: seeds 0 and 1 are used for training the embedded models and for testing fine-tuning."""
LARGEST_SEED = 2**32 - 1 - FIRST_SCENE_SEED
MOST_EXPRESSIONS = 3
DRAWS = 8
"""Draws per object; duplicates and ambiguous expressions are rejected, so an object may get fewer than wanted."""


@dataclass(frozen=True)
class World:
    """A drawn data set. kinds: sentence id -> groups of the sentence."""

    images: list[PairImage]
    kinds: dict[int, tuple[str, ...]]


def draw_world(sizes: dict[str, int], seed: int, workers: int = 1, progress: bool = True) -> World:
    """Draws the images of all splits with their refs; skips images without refs.

    sizes: number of scenes per folder of SCENE_SPLITS. The result does not depend on `workers`.
    Raises UserError when a size or the seed is out of range.
    """
    for folder, size in sizes.items():
        if size < 1:
            raise UserError(f"--{folder} {size}: must be 1 or more")
    if not 0 <= seed <= LARGEST_SEED:
        raise UserError(f"--seed {seed}: must be from 0 to {LARGEST_SEED}")
    world = World([], {})
    numbers = _Numbers()
    for folder, size in sizes.items():
        scenes = build_scene_set(SCENE_SPLITS[folder], seed + FIRST_SCENE_SEED, size, workers=workers, progress=progress)
        drawn = list(_drawn_images(folder, scenes, seed + FIRST_SCENE_SEED, numbers))
        world.images.extend(part for split in SPLITS for part in _parts(split, folder, drawn))
        for each in drawn:
            world.kinds.update(each.kinds)
    return world


class _Numbers:
    """Counters of a set's ids, all from 1."""

    def __init__(self) -> None:
        self.images, self.objects, self.sentences = count(1), count(1), count(1)


@dataclass(frozen=True)
class _Drawn:
    """An image with its refs, the drawn object of each ref, and the kinds of its sentences."""

    image: PairImage
    objects: tuple[SceneObject, ...]
    kinds: dict[int, tuple[str, ...]]


def _drawn_images(folder: str, scenes: SceneSet, seed: int, numbers: _Numbers) -> Iterator[_Drawn]:
    """Yields the images of a folder; their names contain their ids, as in COCO."""
    for index, scene in enumerate(scenes):
        # A separate random stream, so that expressions do not change how scenes are drawn.
        rng = scene_rng(SCENE_SPLITS[folder], seed, index).spawn(1)[0]
        refs, objects, kinds = [], [], {}
        for place, obj in enumerate(scene.objects):
            expressions = draw_expressions(scene, place, rng)
            if expressions:
                sent_ids = tuple(next(numbers.sentences) for _ in expressions)
                number = next(numbers.objects)
                refs.append(PairObject(number, number, number, Rle.of(scene.masks[place]), expressions, sent_ids))
                objects.append(obj)
                kinds |= {sent_id: kinds_of(text, scene, place) for sent_id, text in zip(sent_ids, expressions, strict=True)}
        number = next(numbers.images)
        height, width = scene.label_map.shape
        read = partial(_encode_png, scene.image)
        image = PairImage(str(number), f"{folder}/{number:012d}.png", height, width, folder, tuple(refs), read)
        yield _Drawn(image, tuple(objects), kinds)


def _parts(split: str, folder: str, drawn: Iterable[_Drawn]) -> Iterator[PairImage]:
    """Yields the images of a split that are in a folder, with the refs of that split."""
    own_folder, asks_for = SPLITS[split]
    for each in drawn if own_folder == folder else ():
        refs = tuple(ref for ref, obj in zip(each.image.objects, each.objects, strict=True) if asks_for(obj))
        if refs:
            yield replace(each.image, split=split, objects=refs)


def draw_expressions(scene: Scene, index: int, rng: np.random.Generator) -> tuple[str, ...]:
    """Draws up to two or three different expressions that refer to object `index` (from 0) and no other; possibly none."""
    wanted = int(rng.integers(2, MOST_EXPRESSIONS + 1))
    found: dict[str, None] = {}
    for _ in range(DRAWS):
        text = sample_positional_expression(scene, index, rng)
        if referents(text, scene) == (index,):
            found[text] = None
        if len(found) == wanted:
            break
    return tuple(found)


def kinds_of(text: str, scene: Scene, index: int) -> tuple[str, str]:
    """Returns the groups of an expression of object `index` (from 0).

    The first is "position" or "attribute", depending on whether the expression names a position. The second counts the objects
    of the same category in the scene, itself included ("3 look-alikes"), or is "no look-alikes".
    """
    said = parse(text)
    category = scene.objects[index].category
    alike = sum(obj.category == category for obj in scene.objects)
    where = "position" if said and (said.position or said.superlative) else "attribute"
    return where, f"{alike} look-alikes" if alike > 1 else "no look-alikes"


def write_world(world: World, out: Path) -> None:
    """Writes a world to a new folder, which appears when complete. Raises UserError, also when `out` exists."""
    with new_place(out) as folder:
        write_refer(folder, world.images, DATASET, copy_images=True)
        write_atomic(folder / DATASET / KINDS, json.dumps(world.kinds) + "\n")


def _encode_png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image[..., ::-1])[1].tobytes()
