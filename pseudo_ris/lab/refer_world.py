"""Draws a small RefCOCO of the drawn world: scenes, their objects and what a person might call each, as a REFER set.

`pseudo-ris lab refer-world --out DIR --train 500 --val 60 --test 100 --seed 0` writes

    DIR/drawn/refs(unc).p, instances.json   the set, as REFER reads it
    DIR/drawn/kinds.json                    the groups of each sentence, by its number, which evaluation breaks figures down by
    DIR/images/train, val, test             its images; those of a folder have the ids that the set gives them

Splits: train, val, and testA and testB, which share the test scenes: testA asks for living things, testB for all others
(RefCOCO's ask for people and for all others). The embedded models have seen none of the scenes.
"""

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
"""Folder of images -> the split of scenes it is drawn from."""
LIVING = frozenset({"duck", "fish", "flower", "mushroom", "tree"})
SPLITS: dict[str, tuple[str, Callable[[SceneObject], bool]]] = {
    "train": ("train", lambda obj: True),
    "val": ("val", lambda obj: True),
    "testA": ("test", lambda obj: obj.category in LIVING),
    "testB": ("test", lambda obj: obj.category not in LIVING),
}
"""Split of the set -> its folder of images, and which objects it asks for."""

FIRST_SCENE_SEED = 100
"""Of a world's seed 0: the embedded models were trained on scenes of seed 0, fine-tuning proves itself on those of seed 1."""
LARGEST_SEED = 2**32 - 1 - FIRST_SCENE_SEED
MOST_EXPRESSIONS = 3
DRAWS = 8
"""Of an object's expressions; those that are the same, or single out no object, leave it with fewer than it was to have."""


@dataclass(frozen=True)
class World:
    """A drawn set. kinds: the groups of each sentence, by its number."""

    images: list[PairImage]
    kinds: dict[int, tuple[str, ...]]


def draw_world(sizes: dict[str, int], seed: int, workers: int = 1, progress: bool = True) -> World:
    """The images of all splits with their refs; one that no ref is about is left out.

    sizes: how many scenes each folder of SCENE_SPLITS has. The same sizes and seed give the same world, whatever `workers`.
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
    """Running numbers of a set, all from 1."""

    def __init__(self) -> None:
        self.images, self.objects, self.sentences = count(1), count(1), count(1)


@dataclass(frozen=True)
class _Drawn:
    """An image with its refs, the object of each, and the kinds of their sentences."""

    image: PairImage
    objects: tuple[SceneObject, ...]
    kinds: dict[int, tuple[str, ...]]


def _drawn_images(folder: str, scenes: SceneSet, seed: int, numbers: _Numbers) -> Iterator[_Drawn]:
    """The images of a folder, whose names spell their ids as COCO's do."""
    for index, scene in enumerate(scenes):
        # A stream of its own: expressions do not change how a scene is drawn.
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
    """The part of a split that lies in a folder: its images, each with the refs that are the split's."""
    own_folder, asks_for = SPLITS[split]
    for each in drawn if own_folder == folder else ():
        refs = tuple(ref for ref, obj in zip(each.image.objects, each.objects, strict=True) if asks_for(obj))
        if refs:
            yield replace(each.image, split=split, objects=refs)


def draw_expressions(scene: Scene, index: int, rng: np.random.Generator) -> tuple[str, ...]:
    """Two or three different expressions that each refer to object `index` (from 0) and to no other; fewer where there are
    not as many, none where an object cannot be told from another.
    """
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
    """Groups of an expression of object `index` (from 0).

    Whether it says where the object is ("position") or only what it is like ("attribute"), and how many objects of the scene
    are of its category, itself included ("3 look-alikes"; "no look-alikes" where it is the only one).
    """
    said = parse(text)
    category = scene.objects[index].category
    alike = sum(obj.category == category for obj in scene.objects)
    where = "position" if said and (said.position or said.superlative) else "attribute"
    return where, f"{alike} look-alikes" if alike > 1 else "no look-alikes"


def write_world(world: World, out: Path) -> None:
    """Writes a world to a new folder, which appears whole. Raises UserError, also when something is at `out`."""
    with new_place(out) as folder:
        write_refer(folder, world.images, DATASET, copy_images=True)
        write_atomic(folder / DATASET / KINDS, json.dumps(world.kinds) + "\n")


def _encode_png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image[..., ::-1])[1].tobytes()
