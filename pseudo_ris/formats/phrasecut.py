"""Reads VGPhraseCut (Wu et al., CVPR 2020): phrases about regions of Visual Genome's images.

A folder holds `refer_<split>.json`, a list of tasks with one phrase and the polygons of its instances, and
`image_data_split3000.json` with the images' sizes. Images are `<image_id>.jpg`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.io.json_fields import entries_of, field, read_json
from pseudo_ris.io.safe_paths import images_beside, reader_inside
from pseudo_ris.pairs.pair_set import PairImage, PairObject, Rle, checked_images

TASKS, SIZES = "refer_*.json", "image_data*.json"
FEWEST_POINTS = 2


def read_phrasecut(path: Path, images: Path | None = None) -> Iterator[PairImage]:
    """Yields the images of a set, split by split; each task is an object with one sentence, its phrase.

    A mask is the union of the polygons of all instances, each drawn as the set's own code does: corners truncated to whole
    pixels, outline included. path: the folder, or one file of tasks in it. images: folder of the images; default: `images`
    beside the file. Raises UserError that names the file, task and field.
    """
    folder = path if path.is_dir() else path.parent
    files = sorted(path.glob(TASKS)) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{path}: has no {TASKS}; give the folder of VGPhraseCut's annotations")
    sizes = _sizes(folder)
    numbers = count(1)
    place = images_beside(folder, images)
    found = (image for file in files for image in _images_of(file, sizes, numbers, place))
    return checked_images(found, str(path))


def _sizes(folder: Path) -> dict[int, tuple[int, int]]:
    """Height and width by image_id. Raises UserError."""
    files = sorted(folder.glob(SIZES))
    if not files:
        raise UserError(f"{folder}: has no {SIZES}; put VGPhraseCut's list of images beside its tasks")
    entries = entries_of(read_json(files[0]), files[0])
    return {
        field(entry, "image_id", int, where): (field(entry, "height", int, where), field(entry, "width", int, where))
        for entry, where in entries
    }


def _images_of(
    path: Path, sizes: dict[int, tuple[int, int]], numbers: Iterator[int], images: Path | None
) -> Iterator[PairImage]:
    """The images of one split, in the order of their first task."""
    split = path.stem.removeprefix("refer_")
    tasks: dict[int, list[tuple[dict[str, Any], str]]] = {}
    for task, where in entries_of(read_json(path), path):
        tasks.setdefault(field(task, "image_id", int, where), []).append((task, where))
    for number, own in tasks.items():
        if number not in sizes:
            raise UserError(f"{own[0][1]}: image {number} is not in {SIZES}; get both files from the same set")
        height, width = sizes[number]
        objects = tuple(_object(task, where, next(numbers), height, width) for task, where in own)
        name = f"{number}.jpg"
        yield PairImage(str(number), name, height, width, split, objects, reader_inside(images, name))


def _object(task: dict[str, Any], where: str, number: int, height: int, width: int) -> PairObject:
    phrase = field(task, "phrase", str, where)
    try:
        mask = Rle.of(_drawn(field(task, "Polygons", list, where), height, width))
    except (BadInputError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{where}: Polygons: not lists of points for each instance ({error}); get the file again") from error
    return PairObject(number, number, number, mask, (phrase,), (number,))


def _drawn(instances: list[Any], height: int, width: int) -> np.ndarray:
    """The union of the instances' polygons, bool [height, width]."""
    canvas = Image.new("1", (width, height))
    draw = ImageDraw.Draw(canvas)
    for polygons in instances:
        for polygon in polygons:
            points = [(int(x), int(y)) for x, y in polygon]
            if len(points) >= FEWEST_POINTS:
                draw.polygon(points, outline=1, fill=1)
    return np.array(canvas, bool)
