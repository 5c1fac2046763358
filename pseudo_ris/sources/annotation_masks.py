"""Reads masks from the annotations of a COCO file or a REFER data set, in place of pseudo masks."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.formats.refs import INSTANCES, refs_of_split
from pseudo_ris.io.json_fields import ListedImage, coco_images, entries_of, field, read_json
from pseudo_ris.io.segmentation import decode_segmentation
from pseudo_ris.records import ImageRecord
from pseudo_ris.storage.mask_store import without_blank

LARGEST_ID = 10**18 - 1
"""Largest seg_id that all readers of a pairs CSV accept."""


@dataclass(frozen=True)
class ImageAnnotations:
    """The annotations of one image; has the interface of mask_store.StoredMasks.

    segmentations: seg id -> JSON of the segmentation, ordered by seg id.
    """

    image: ListedImage
    segmentations: dict[int, bytes]

    def flat(self) -> list[Any]:
        """Returns everything that results depend on, for hashing."""
        return [self.image.size, *(item for pair in self.segmentations.items() for item in pair)]

    def decode(self, height: int, width: int) -> tuple[list[int], np.ndarray]:
        """Returns seg ids and masks, bool [N, H, W], without blank masks (all 0 or all 1).

        Raises BadInputError when the file states another image size, a segmentation is damaged, or all masks are blank.
        """
        if self.image.size not in (None, (height, width)):
            annotated = "x".join(map(str, reversed(self.image.size)))
            raise BadInputError(
                f"{self.image.name}: {width}x{height} pixels after EXIF rotation, but its annotations are for {annotated}; "
                "give the image that was annotated"
            )
        masks = {seg_id: self._decode(seg_id, height, width) for seg_id in self.segmentations}
        return without_blank(masks, height, width, self.image.name)

    def _decode(self, seg_id: int, height: int, width: int) -> np.ndarray:
        try:
            return decode_segmentation(json.loads(self.segmentations[seg_id]), height, width)
        except BadInputError as error:
            raise BadInputError(f"{self.image.name}, annotation {seg_id}: {error}; fix or remove the annotation") from error


class AnnotationMasks:
    """Annotations as masks; has the interface of mask_store.MaskStore. Seg ids are `seg_id` where present, else annotation ids.

    Args:
        path: the annotation file.
        images: image id -> image of that file.
        segmentations: image id -> seg id -> JSON of the segmentation.
    """

    def __init__(self, path: Path, images: Mapping[str, ListedImage], segmentations: Mapping[str, Mapping[int, bytes]]) -> None:
        self.path = path
        self._images = images
        self._segmentations = segmentations

    @classmethod
    def of_coco(cls, path: Path, wanted: Collection[int] | None = None) -> AnnotationMasks:
        """Reads a COCO file. wanted: ids of the annotations to use; None: all except crowds, which are not single objects.

        Raises UserError that names the file, entry and field.
        """
        content = read_json(path)
        images = coco_images(content, path)
        by_id = {image.image_id: image for image in images.values()}
        return cls(path, by_id, _segmentations(content, path, images, wanted))

    @classmethod
    def of_refer(cls, path: Path, split: str) -> AnnotationMasks:
        """Reads the annotations of the refs of a split from the instances.json beside the refs file. Raises UserError."""
        return cls.of_coco(path.with_name(INSTANCES), {ref.ann_id for ref in refs_of_split(path, split)})

    def read(self, record: ImageRecord) -> ImageAnnotations:
        """Returns the annotations of an image, possibly none.

        Raises BadInputError when the file does not list the image or uses its id for another image.
        """
        image = self._images.get(record.image_id)
        if image is None or _stem(image.name) != _stem(record.name):
            raise BadInputError(
                f"{record.name}: {self.path} has no image of this name with the id {record.image_id}; "
                "list the images with --coco, --refer or --anns"
            )
        return ImageAnnotations(image, dict(sorted(self._segmentations.get(record.image_id, {}).items())))


def _segmentations(
    content: Any, path: Path, images: Mapping[int, ListedImage], wanted: Collection[int] | None
) -> dict[str, dict[int, bytes]]:
    """Returns image id -> seg id -> JSON of the segmentation."""
    found: dict[str, dict[int, bytes]] = defaultdict(dict)
    taken: set[int] = set()
    for entry, where in entries_of(content, path, "annotations"):
        number = field(entry, "id", int, where)
        if entry.get("iscrowd") if wanted is None else number not in wanted:
            continue
        image = images.get(field(entry, "image_id", int, where))
        seg_id = field(entry, "seg_id", int, where) if "seg_id" in entry else number
        if image is None:
            raise UserError(f"{where}: image_id is not in `images`; get the file again")
        if number in taken or seg_id in found[image.image_id] or not 0 <= seg_id <= LARGEST_ID:
            raise UserError(f"{where}: id {str(number)[:40]} is a duplicate or not a seg id (0 to 10^18 - 1); fix the file")
        taken.add(number)
        found[image.image_id][seg_id] = json.dumps(entry.get("segmentation")).encode()
    missing = sorted(set(wanted or ()) - taken)
    if missing:
        raise UserError(f"{path}: has no annotation {missing[0]}, which the refs name; get both files from the same set")
    return found


def _stem(name: str) -> str:
    """Returns the part of a file name that stays the same in another folder or image format."""
    return PurePosixPath(name).stem
