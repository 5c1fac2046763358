"""The area of masks on disk, as shares of their images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.io.json_fields import entries_of, field, read_json
from pseudo_ris.io.mask_png import decode_mask
from pseudo_ris.io.safe_paths import check_name, file_inside, read_inside
from pseudo_ris.storage.mask_store import META, require_loose


def area_shares(masks: Path, image_ids: list[str], seg_ids: list[int]) -> np.ndarray:
    """Area of each mask, as a share of its image's pixels: float64 [M], in [0, 1].

    masks: folder of `<image id>/<seg id>.png`. The areas are those that `_meta/<image id>.json` records; of an image without
        that file the PNGs are read.
    image_ids, seg_ids: of the M masks.
    Raises UserError when a mask is neither recorded nor there, when a file cannot be read, and when an image id leads out of
    the folder, also by a symbolic link.
    """
    if not masks.is_dir():
        raise UserError(f"--masks {masks}: no such folder; give stage 1's folder of masks")
    require_loose(masks)
    places: dict[str, list[int]] = defaultdict(list)
    for place, image_id in enumerate(image_ids):
        places[image_id].append(place)
    shares = np.empty(len(image_ids))
    for image_id, own in places.items():
        shares[own] = list(_shares_of_image(masks, image_id, [seg_ids[place] for place in own]))
    return shares


def _shares_of_image(masks: Path, image_id: str, seg_ids: list[int]) -> Iterator[float]:
    try:
        check_name(image_id)
    except BadInputError as error:
        raise UserError(
            f"--masks {masks}: image id {image_id[:40]!r} of the pairs names no folder; mend the pairs CSV"
        ) from error
    try:
        meta = file_inside(masks, f"{META}/{image_id}.json")
    except BadInputError:
        yield from (_share_of_file(masks, f"{image_id}/{seg_id}.png") for seg_id in seg_ids)
        return
    recorded = _recorded_shares(meta)
    for seg_id in seg_ids:
        if seg_id not in recorded:
            raise UserError(f"{meta}: has no mask {seg_id}; give the folder of masks that the pairs were made from")
        yield recorded[seg_id]


def _recorded_shares(meta: Path) -> dict[int, float]:
    """Seg id -> share of the image, as stage 1 wrote it down."""
    content = read_json(meta)
    entries = list(entries_of(content, meta, "masks"))
    size = content.get("size")
    if not isinstance(size, list) or len(size) != 2 or not all(type(side) is int and side > 0 for side in size):
        raise UserError(f"{meta}: size is no height and width; run generate_masks again")
    shares = {field(entry, "seg_id", int, where): field(entry, "area", int, where) for entry, where in entries}
    pixels = size[0] * size[1]
    strange = next((seg_id for seg_id, area in shares.items() if not 0 <= area <= pixels), None)
    if strange is not None:
        raise UserError(f"{meta}: the area of mask {strange} is not from 0 to {pixels} pixels; run generate_masks again")
    return {seg_id: area / pixels for seg_id, area in shares.items()}


def _share_of_file(masks: Path, name: str) -> float:
    try:
        return float(decode_mask(read_inside(masks, name)).mean())
    except BadInputError as error:
        raise UserError(f"--masks {masks}, {name}: {error}") from error
