"""Training targets of RIS models: masks with their expressions, from a pairs CSV or any exchange format."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

import numpy as np

from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.io.mask_png import decode_mask
from pseudo_ris.io.safe_paths import check_name, read_inside, reader_inside
from pseudo_ris.pairs.csv_pairs import kept_sentences
from pseudo_ris.pairs.pair_set import PairImage
from pseudo_ris.pairs.rows import open_pairs
from pseudo_ris.storage.mask_store import MaskStore

STORES_KEPT = 2


@dataclass(frozen=True)
class Target:
    """One mask with its expressions, at least one.

    name: what errors call it. read_image: gives the encoded image. read_mask: gives the mask, bool [H, W]. Both open nothing
    before they are called, may be handed to other processes and raise BadInputError. tags: for each sentence the groups it
    belongs to, ("position", "3 look-alikes"); () where none are known. image: name of the image file; targets of the same name
    and `folder` show the same image. folder: of the image file.
    """

    name: str
    read_image: Callable[[], bytes]
    read_mask: Callable[[], np.ndarray]
    sentences: tuple[str, ...]
    tags: tuple[tuple[str, ...], ...] = ()
    image: str = ""
    folder: str = ""


def by_image(targets: Sequence[Target]) -> list[list[int]]:
    """Places of the targets of each image, images in the order of their first target; a target without a name is alone."""
    found: dict[tuple[str, str] | int, list[int]] = {}
    for place, target in enumerate(targets):
        found.setdefault((target.folder, target.image) if target.image else place, []).append(place)
    return list(found.values())


def targets_of_images(images: Iterable[PairImage]) -> list[Target]:
    """The objects of pairs with all their sentences; those without any are left out."""
    return [
        Target(f"{image.name}, mask {each.seg_id}", image.read, each.mask.decode, each.sentences, image=image.name)
        for image in images
        for each in image.objects
        if each.sentences
    ]


def targets_of_csv(
    pairs: Path, images: Path, masks: Path, threshold: float = 1.0, fallback: Literal["drop", "unfiltered"] = "drop"
) -> list[Target]:
    """The rows of a pairs CSV with the expressions that the DoC rule keeps (see select.kept_candidates).

    images: folder in which `img_name` lies. masks: stage 1's folder, also with shards, or another of `<img_id>/<seg_id>.png`.
    Rows of which none is kept are left out.
    Raises UserError that names the file, and the row and column that do not fit or the image or mask that is missing.
    """
    archive = _store(masks).archive
    archive.forget()  # of an earlier call
    targets = []
    for row in open_pairs(pairs)[1]:
        sentences = kept_sentences(row, threshold, fallback)
        if sentences:
            image, image_id, seg_id = str(row["img_name"]), str(row["img_id"]), row["seg_id"]
            where = f"{pairs}, index {row['index']}"
            _require(images, image, f"{where}, img_name", "give the images that stage 2 had")
            mask = f"{image_id}/{seg_id}.png"
            if archive.key_of(image_id) is None:
                _require(masks, mask, f"{where}, seg_id", "give stage 1's folder of masks")
                read_mask = partial(_read_mask, masks, mask)
            else:
                _require_stored(masks, image_id, seg_id, f"{where}, seg_id")
                read_mask = partial(_read_stored_mask, masks, image_id, seg_id)
            read_image = reader_inside(images, image)
            targets.append(Target(f"{image}, mask {mask}", read_image, read_mask, sentences, image=image, folder=str(images)))
    return targets


def _require(folder: Path, name: str, where: str, remedy: str) -> None:
    """Raises UserError when a file is missing now, and not in the middle of an epoch."""
    try:
        check_name(name)
    except BadInputError as error:
        raise UserError(f"{where}: {error}") from error
    if not (folder / name).is_file():
        raise UserError(f"{where}: {folder / name} is missing; {remedy}")


def _require_stored(masks: Path, image_id: str, seg_id: int, where: str) -> None:
    """`_require` of a mask whose image has a row in a shard."""
    try:
        _store(masks).read_png(image_id, seg_id)
    except BadInputError as error:
        raise UserError(f"{where}: {error}; give stage 1's folder of masks") from error


@lru_cache(maxsize=STORES_KEPT)
def _store(masks: Path) -> MaskStore:
    """Each process has its own, since a store that has been read from does not go to another."""
    return MaskStore(masks)


def _read_stored_mask(masks: Path, image_id: str, seg_id: int) -> np.ndarray:
    return decode_mask(_store(masks).read_png(image_id, seg_id))


def _read_mask(folder: Path, name: str) -> np.ndarray:
    return decode_mask(read_inside(folder, name))
