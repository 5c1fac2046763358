"""Converts an image with its objects to and from plain data: a Parquet row, the JSON of a WebDataset sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.io.json_fields import field
from pseudo_ris.pairs.pair_set import PairImage, PairObject, Rle


def entry_of(image: PairImage) -> dict[str, Any]:
    """Returns all fields of an image except its bytes. bbox: [x, y, width, height] in pixels."""
    return {
        "image_id": image.image_id,
        "file_name": image.name,
        "split": image.split,
        "height": image.height,
        "width": image.width,
        "samples": [_sample_of(each) for each in image.objects],
    }


def _sample_of(each: PairObject) -> dict[str, Any]:
    (x0, y0, x1, y1), _ = each.mask.box_and_area()
    return {
        "id": each.ref_id,
        "object_id": each.object_id,
        "seg_id": each.seg_id,
        "category_id": each.category_id,
        "sent_ids": list(each.sent_ids),
        "sentences": list(each.sentences),
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "mask": each.mask.segmentation,
    }


def image_of(entry: dict[str, Any], read: Callable[[], bytes], where: str) -> PairImage:
    """Builds the image that an entry describes. where: the entry's place, for errors. Raises UserError."""
    return PairImage(
        image_id=field(entry, "image_id", str, where),
        name=field(entry, "file_name", str, where),
        height=field(entry, "height", int, where),
        width=field(entry, "width", int, where),
        split=field(entry, "split", str, where),
        objects=tuple(
            _object_of(sample, f"{where}, sample {number}")
            for number, sample in enumerate(field(entry, "samples", list, where))
        ),
        read=read,
    )


def _object_of(sample: Any, where: str) -> PairObject:
    if not isinstance(sample, dict):
        raise UserError(f"{where}: is not a JSON object; get the file again")
    return PairObject(
        ref_id=field(sample, "id", int, where),
        object_id=field(sample, "object_id", int, where),
        seg_id=field(sample, "seg_id", int, where),
        mask=_mask_of(field(sample, "mask", dict, where), where),
        sentences=tuple(field(sample, "sentences", list, where)),
        sent_ids=tuple(field(sample, "sent_ids", list, where)),
        category_id=field(sample, "category_id", int, where),
    )


def _mask_of(mask: dict[str, Any], where: str) -> Rle:
    size = mask.get("size")
    if not isinstance(size, list) or len(size) != 2:
        raise UserError(f"{where}: mask: size is not [height, width]; get the file again")
    try:
        return Rle.of_segmentation(mask, *size)
    except BadInputError as error:
        raise UserError(f"{where}: mask: {error}; get the file again") from error
