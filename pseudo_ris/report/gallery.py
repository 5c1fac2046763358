"""Prepares the images of the report: thumbnails, mask outlines, mask areas and duplicate masks."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

import cv2
import numpy as np

from pseudo_ris.errors import BadInputError
from pseudo_ris.io.bitmask import iou_with, pack
from pseudo_ris.io.image_ids import unusable_images
from pseudo_ris.io.images import decode_image, list_images
from pseudo_ris.records import ImageRecord
from pseudo_ris.storage.mask_store import MaskStore

THUMBNAIL = 320
JPEG = (cv2.IMWRITE_JPEG_QUALITY, 70, cv2.IMWRITE_JPEG_OPTIMIZE, 1)
DUPLICATE_IOU = 0.9
SIMPLIFY = 0.6
"""Tolerance of simplified outlines, in pixels of the thumbnail."""
SPECK = 2.0
"""Smallest area, in square pixels of the thumbnail, of the parts of an outline that has larger parts."""


@dataclass(frozen=True)
class Outline:
    """The outline of a mask in pixels of the thumbnail. path: SVG path, fill rule even-odd.

    x, y: position of the mask's number.
    """

    path: str
    x: int
    y: int


@dataclass(frozen=True)
class MaskView:
    """One mask. share: fraction of the image's pixels. twins: seg ids of its duplicates in the image (IoU > 0.9).

    outline: None if the image is not in the gallery.
    """

    seg_id: int
    share: float
    twins: tuple[int, ...]
    outline: Outline | None


@dataclass(frozen=True)
class Thumbnail:
    """A thumbnail: its JPEG file and its size in pixels."""

    jpeg: bytes
    width: int
    height: int


@dataclass(frozen=True)
class ImageView:
    """One image of the report. thumbnail: None if it is not in the gallery. problems: what is missing or unreadable."""

    image_id: str
    name: str
    masks: tuple[MaskView, ...]
    thumbnail: Thumbnail | None
    problems: tuple[str, ...]


@dataclass(frozen=True)
class ImageRows:
    """The id of an image and the seg ids of its rows in the CSV, in order."""

    image_id: str
    seg_ids: tuple[int, ...]


def images_of(images: Path, masks: Path, rows: Mapping[str, ImageRows]) -> tuple[list[ImageRecord], int]:
    """Returns the images of the report, and the number of images in the folder that stage 1 has not processed.

    The report covers the images in the CSV (rows: image name -> its rows), in order, then the images that stage 1 processed but
    the CSV does not name. Opens only files that are listed in the folder, whatever the CSV names.
    Raises UserError when a folder is missing or contains no image.
    """
    store = MaskStore.existing(masks)
    listed = list_images(images)
    reads = {record.name: record.read for record in listed}
    named = [ImageRecord(of.image_id, name, reads.get(name, partial(_missing, name))) for name, of in rows.items()]
    others = [record for record in listed if record.name not in rows]
    known = [record for record in others if store.is_known(record) or (masks / record.image_id).is_dir()]
    return named + known, len(others) - len(known)


def evenly(count: int, most: int) -> frozenset[int]:
    """Returns at most `most` evenly spaced indices out of `count`, starting with 0."""
    return frozenset(range(count)) if count <= most else frozenset(index * count // most for index in range(most))


def view_images(
    masks: Path, records: Sequence[ImageRecord], rows: Mapping[str, ImageRows], shown: Collection[int]
) -> Iterator[ImageView]:
    """Yields a view of each image; views with an index in `shown` have a thumbnail and outlines.

    Missing and unreadable files are reported as problems of the view.
    """
    store = MaskStore(masks)
    for index, record in enumerate(records):
        expected = rows[record.name].seg_ids if record.name in rows else None
        try:
            yield _view(record, store, expected, index in shown)
        except BadInputError as error:
            yield ImageView(record.image_id, record.name, (), None, (str(error),))


def outline_of(mask: np.ndarray, width: int, height: int) -> Outline:
    """Returns the outline of a non-empty mask, bool [H, W], in a picture of width x height pixels (centres at integers)."""
    small = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    # Masks thinner than a pixel of the thumbnail get an outline, too.
    solid = (small >= 0.5 if (small >= 0.5).any() else small > 0).astype(np.uint8)
    contours, _ = cv2.findContours(solid, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    large = [contour for contour in contours if cv2.contourArea(contour) >= SPECK] or contours
    path = "".join(_path_of(cv2.approxPolyDP(contour, SIMPLIFY, True)[:, 0]) for contour in large)
    depth = cv2.distanceTransform(np.pad(solid, 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = divmod(int(depth.argmax()), width)
    return Outline(path, x, y)


def twins_of(masks: np.ndarray, seg_ids: Sequence[int]) -> list[tuple[int, ...]]:
    """Returns for each mask, bool [N, H, W], the seg ids of its duplicates (IoU > 0.9)."""
    packed = pack(masks)
    alike = (iou_with(packed, index, packed) > DUPLICATE_IOU for index in range(len(masks)))
    return [tuple(seg_ids[other] for other in np.flatnonzero(row) if other != index) for index, row in enumerate(alike)]


def _missing(name: str) -> NoReturn:
    raise BadInputError(f"{name}: is not in the folder of images")


def _view(record: ImageRecord, store: MaskStore, expected: Sequence[int] | None, shown: bool) -> ImageView:
    """Raises BadInputError when the image cannot be read."""
    image = decode_image(record.read(), record.name)
    height, width = image.shape[:2]
    thumbnail = _thumbnail(image) if shown else None
    try:
        _check_id(record)
        seg_ids, masks = store.read(record).decode(height, width)
    except BadInputError as error:
        return ImageView(record.image_id, record.name, (), thumbnail, (str(error),))
    views = [
        MaskView(seg_id, float(mask.mean()), twins, outline_of(mask, thumbnail.width, thumbnail.height) if thumbnail else None)
        for seg_id, mask, twins in zip(seg_ids, masks, twins_of(masks, seg_ids), strict=True)
    ]
    return ImageView(record.image_id, record.name, tuple(views), thumbnail, tuple(_differences(record, seg_ids, expected)))


def _check_id(record: ImageRecord) -> None:
    """Raises BadInputError if the id, which the CSV gives, is not a safe folder name."""
    for reason in unusable_images([record]).values():
        raise BadInputError(reason)


def _differences(record: ImageRecord, seg_ids: Sequence[int], expected: Sequence[int] | None) -> Iterator[str]:
    """Yields the differences between the masks on disk and the rows of the CSV."""
    if expected is None and seg_ids:
        yield f"{record.name}: has {len(seg_ids)} masks but no row in the CSV"
        return
    expected = expected or ()
    for seg_id in sorted(set(expected) - set(seg_ids)):
        yield f"{record.image_id}/{seg_id}.png: the CSV has a row for it, but the mask is missing or blank"
    for seg_id in sorted(set(seg_ids) - set(expected)):
        yield f"{record.image_id}/{seg_id}.png: is a mask without a row in the CSV"


def _thumbnail(image: np.ndarray) -> Thumbnail:
    """Scales RGB uint8 [H, W, 3] so that its longer side has at most THUMBNAIL pixels."""
    height, width = image.shape[:2]
    scale = min(1.0, THUMBNAIL / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale < 1 else image
    jpeg = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), JPEG)[1]
    return Thumbnail(jpeg.tobytes(), *size)


def _path_of(points: np.ndarray) -> str:
    """Returns the SVG path of a closed polygon, int [n, 2] (x, y)."""
    steps = np.diff(points, axis=0)
    return f"M{points[0, 0]} {points[0, 1]}" + "".join(f"l{x} {y}" for x, y in steps.tolist()) + "z"
