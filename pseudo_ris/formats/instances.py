"""Reads and writes the part that COCO, REFER and gRefCOCO files share: `images`, `annotations` and `categories`.

Exports add fields to COCO's only when they carry new information: `image_id` for images whose id is not a number, `seg_id` for
annotations where it differs from `id`, and `pairs` (`[{"image_id", "split", "ref_ids"}, ...]`) when a reader would otherwise
find images, splits or refs in another order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.formats.coco_categories import COCO_CATEGORIES
from pseudo_ris.formats.outputs import copy_image
from pseudo_ris.io.images import check_size
from pseudo_ris.io.json_fields import entries_of, field, read_json
from pseudo_ris.io.safe_paths import IMAGES, reader_inside
from pseudo_ris.pairs.pair_set import NO_CATEGORY, PairImage, PairObject, Rle, checked_images

SEPARATE = (",", ":")
Place = tuple[int, str]
"""An image's number in the file, and a split."""


@dataclass(frozen=True)
class PlacedRef:
    """A ref of a file. image: its image's number in the file. annotations: ids of the annotations that form its mask."""

    ref_id: int
    image: int
    split: str
    annotations: tuple[int, ...]
    object_id: int
    seg_id: int
    category_id: int
    sentences: tuple[str, ...]
    sent_ids: tuple[int, ...]


class Instances:
    """The images and annotations of a COCO file."""

    def __init__(self, path: Path) -> None:
        """Reads the file. Raises UserError that names the file, entry and field."""
        self.path = path
        self.content = read_json(path)
        self.images = self._by_id("images")
        self.annotations = self._by_id("annotations")

    def _by_id(self, name: str) -> dict[int, dict[str, Any]]:
        found: dict[int, dict[str, Any]] = {}
        for entry, where in entries_of(self.content, self.path, name):
            number = field(entry, "id", int, where)
            if found.setdefault(number, entry) is not entry:
                raise UserError(f"{where}: duplicate id {str(number)[:40]}; get the file again")
        return found

    def annotation(self, number: int, image: int, where: str) -> dict[str, Any]:
        """Returns an annotation. Raises UserError when the image has no annotation with this number."""
        entry = self.annotations.get(number)
        if entry is None or entry.get("image_id") != image:
            raise UserError(
                f"{where}: {self.path} has no annotation {str(number)[:40]} of image {str(image)[:40]}; "
                "get both files from the same set"
            )
        return entry

    def seg_id(self, number: int) -> int:
        """Returns the seg_id of an annotation, by default its id. Raises UserError."""
        entry = self.annotations[number]
        return field(entry, "seg_id", int, f"{self.path}, annotation {number}") if "seg_id" in entry else number

    def assemble(self, refs: Sequence[PlacedRef], found: Sequence[Place], images: Path | None) -> Iterator[PairImage]:
        """Yields the images with their refs, decoding the masks of one image at a time.

        found: images and splits in file order; the file's own `pairs` take precedence. Raises UserError.
        """
        pairs = _pairs_of(self.content, self.path, refs) if "pairs" in self.content else _grouped(refs, found)
        return checked_images((self._image(place, pairs[place], images) for place in pairs), str(self.path))

    def _image(self, place: Place, refs: Sequence[PlacedRef], images: Path | None) -> PairImage:
        number, split = place
        where = f"{self.path}, image {str(number)[:40]}"
        if number not in self.images:
            raise UserError(f"{where}: is not in `images`, but a ref names it; get both files from the same set")
        entry = self.images[number]
        height, width = (field(entry, side, int, where) for side in ("height", "width"))
        try:
            check_size(height, width)
        except BadInputError as error:
            raise UserError(f"{where}: {error}; get the file again") from error
        name = field(entry, "file_name", str, where)
        return PairImage(
            image_id=field(entry, "image_id", str, where) if "image_id" in entry else str(number),
            name=name,
            height=height,
            width=width,
            split=split,
            objects=tuple(self._object(ref, height, width) for ref in refs),
            read=reader_inside(images, name),
        )

    def _object(self, ref: PlacedRef, height: int, width: int) -> PairObject:
        return PairObject(
            ref_id=ref.ref_id,
            object_id=ref.object_id,
            seg_id=ref.seg_id,
            mask=self._mask(ref.annotations, height, width),
            sentences=ref.sentences,
            sent_ids=ref.sent_ids,
            category_id=ref.category_id,
            targets=ref.annotations if len(ref.annotations) > 1 else (),
        )

    def _mask(self, numbers: Sequence[int], height: int, width: int) -> Rle:
        """Returns the union of the annotations' masks; an empty mask without annotations."""
        joined = np.zeros((height, width), bool)
        for number in numbers:
            try:
                mask = Rle.of_segmentation(self.annotations[number].get("segmentation"), height, width)
            except BadInputError as error:
                where = f"{self.path}, annotation {number}: segmentation"
                raise UserError(f"{where}: {error}; fix or remove the annotation") from error
            if len(numbers) == 1:
                return mask
            joined |= mask.decode()
        return Rle.of(joined)


def _grouped(refs: Iterable[PlacedRef], found: Iterable[Place]) -> dict[Place, list[PlacedRef]]:
    places: dict[Place, list[PlacedRef]] = {place: [] for place in found}
    for ref in refs:
        places[ref.image, ref.split].append(ref)
    return places


def _pairs_of(content: dict[str, Any], path: Path, refs: Sequence[PlacedRef]) -> dict[Place, list[PlacedRef]]:
    """Reads the file's `pairs`, which must contain each ref once. Raises UserError."""
    left = {ref.ref_id: ref for ref in refs}
    if len(left) < len(refs):
        raise UserError(f"{path}: duplicate ref_id; get the file again")
    places: dict[Place, list[PlacedRef]] = {}
    for entry, where in entries_of(content, path, "pairs"):
        place = field(entry, "image_id", int, where), field(entry, "split", str, where)
        taken = []
        for ref_id in field(entry, "ref_ids", list, where):
            ref = left.pop(ref_id, None) if isinstance(ref_id, int) else None
            if ref is None or ref.image != place[0]:
                raise UserError(
                    f"{where}: ref_ids: {str(ref_id)[:40]} is a duplicate or not a ref of the image; get the file again"
                )
            taken.append(ref)
        if places.setdefault(place, taken) is not taken:
            raise UserError(f"{where}: duplicate image {str(place[0])[:40]} in one split; get the file again")
    if left:
        raise UserError(f"{path}, pairs: ref {str(next(iter(left)))[:40]} is missing; get the file again")
    return places


class InstancesWriter:
    """Builds the content of a COCO file from a set. Raises UserError when the set is invalid."""

    def __init__(self, images: Iterable[PairImage], source: str) -> None:
        self.set = list(checked_images(images, source))
        self.numbers = _numbers_of(self.set)

    @cached_property
    def images(self) -> list[dict[str, Any]]:
        """One entry per image, even if it is in several splits."""
        entries: dict[int, dict[str, Any]] = {}
        for image in self.set:
            number = self.numbers[image.image_id]
            entry = {"id": number, "file_name": image.name, "height": image.height, "width": image.width}
            entries.setdefault(number, entry if image.image_id == str(number) else entry | {"image_id": image.image_id})
        return list(entries.values())

    def annotations(self) -> dict[int, dict[str, Any]]:
        """Returns one entry per object, by id; the category is that of the object's first ref."""
        entries: dict[int, dict[str, Any]] = {}
        for image in self.set:
            for each in image.objects:
                if each.object_id not in entries:
                    entries[each.object_id] = self._annotation(image, each)
        return entries

    def _annotation(self, image: PairImage, each: PairObject) -> dict[str, Any]:
        (x0, y0, x1, y1), area = each.mask.box_and_area()
        entry = {
            "id": each.object_id,
            "image_id": self.numbers[image.image_id],
            "category_id": each.category_id,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": area,
            "iscrowd": 0,
            "segmentation": each.mask.segmentation,
        }
        return entry if each.seg_id == each.object_id else entry | {"seg_id": each.seg_id}

    def categories(self) -> list[dict[str, Any]]:
        """Returns the categories in use, with COCO's names; NO_CATEGORY alone is called "object"."""
        used = {each.category_id for image in self.set for each in image.objects} or {NO_CATEGORY}
        if used == {NO_CATEGORY}:
            return [{"id": NO_CATEGORY, "name": "object"}]
        return [{"id": number, "name": COCO_CATEGORIES.get(number, f"category {number}")} for number in sorted(used)]

    def pairs(self, found: Mapping[Place, Sequence[int]]) -> dict[str, Any]:
        """Returns {"pairs": ...}, or {} when a reader finds the same images, splits and refs without it.

        found: ref ids by image and split, in the order in which a reader of the file finds them.
        """
        actual = [((self.numbers[image.image_id], image.split), [each.ref_id for each in image.objects]) for image in self.set]
        if [(place, list(ref_ids)) for place, ref_ids in found.items()] == actual:
            return {}
        return {"pairs": [{"image_id": number, "split": split, "ref_ids": ref_ids} for (number, split), ref_ids in actual]}

    def copy_images(self, folder: Path) -> None:
        """Copies the image files into `<folder>/images`. Raises UserError."""
        for image in self.set:
            copy_image(image, folder / IMAGES)


def _numbers_of(images: Iterable[PairImage]) -> dict[str, int]:
    """Returns a number for each image id: the number that it spells, otherwise a free one."""
    ids = list(dict.fromkeys(image.image_id for image in images))
    numbers = {image_id: number for image_id in ids if (number := _number_of(image_id)) is not None}
    free = max([0, *numbers.values()]) + 1
    for image_id in ids:
        if image_id not in numbers:
            numbers[image_id] = free
            free += 1
    return numbers


def _number_of(image_id: str) -> int | None:
    """Returns the number that an image id spells, or None; at most 15 digits, which every JSON reader preserves."""
    digits = image_id.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= 15):
        return None
    return int(image_id) if str(int(image_id)) == image_id else None
