"""Unpacks a set into the folders of images and masks that stage 2, `report` and `export` read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pseudo_ris.errors import UserError
from pseudo_ris.formats.outputs import copy_image, new_folder
from pseudo_ris.formats.registry import Totals
from pseudo_ris.io.image_ids import names_a_folder
from pseudo_ris.io.mask_png import encode_mask
from pseudo_ris.io.safe_paths import IMAGES
from pseudo_ris.pairs.pair_set import PairImage, PairObject

MASKS = "masks"


def unpack(images: Iterable[PairImage], out: Path) -> Totals:
    """Writes `images/<name>` and `masks/<image id>/<seg id>.png` to the new folder `out`, without the sentences.

    Seg ids are those that stage 2 uses when the set is its `--masks`; like stage 2, it skips empty masks.
    Raises UserError, also when an image id is not a valid folder name.
    """
    totals = Totals()
    ids: set[str] = set()
    with new_folder(out) as folder:
        (folder / MASKS).mkdir()
        for image in images:
            if not names_a_folder(image.image_id):
                raise UserError(f"image {image.image_id!r:.80}: image_id is not a valid folder name; change it")
            copy_image(image, folder / IMAGES)
            ids.add(image.image_id)
            for each in image.objects:
                totals.objects += _write_mask(each, folder / MASKS / image.image_id)
    totals.images = len(ids)
    return totals


def _write_mask(each: PairObject, folder: Path) -> bool:
    """Writes the mask unless it is empty or exists (several refs may share it). Returns True if it was written."""
    target, mask = folder / f"{each.seg_id}.png", each.mask.decode()
    if target.exists() or not mask.any():
        return False
    folder.mkdir(exist_ok=True)
    target.write_bytes(encode_mask(mask))
    return True
