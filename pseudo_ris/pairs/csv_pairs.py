"""Reads stage 2's pairs CSV, with its images and masks, as a set of pairs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import count, groupby
from operator import itemgetter
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import ExifTags

from pseudo_ris.config import ScoringConfig
from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.io.image_ids import names_a_folder
from pseudo_ris.io.images import check_size, open_image
from pseudo_ris.io.mask_png import decode_mask
from pseudo_ris.pairs.pair_set import TRAIN, PairImage, PairObject, Rle, checked_images
from pseudo_ris.pairs.pictures import Folders, MaskFiles, Pictures
from pseudo_ris.pairs.rows import Row, open_pairs
from pseudo_ris.pairs.selection import kept_indices

SIDEWAYS = range(5, 9)
"""EXIF orientations that swap height and width."""


def read_csv(path: Path, images: Path, masks: Path, selection: ScoringConfig | None) -> Iterator[PairImage]:
    """Yields the pairs of a CSV, one image at a time; skips objects without a kept sentence, and images without objects.

    A row's `index` becomes ref_id and object_id; sentences are numbered from 0; the split is "train".
    images: folder that contains `img_name`, or the image file itself. masks: folder of `<img_id>/<seg_id>.png` (stage 1's).
    selection: the DoC filter (see selection.kept_candidates); None keeps all candidates.
    Raises UserError that names the file, row and field, or the mask file.
    """
    pictures = Folders.existing(images, masks)
    return pair_images(open_pairs(path)[1], pictures, selection, str(path))


def pair_images(rows: Iterable[Row], pictures: Pictures, selection: ScoringConfig | None, source: str) -> Iterator[PairImage]:
    """The pairs of rows of a CSV, as `read_csv`. source: what an error calls the place the rows come from."""
    numbers = count()
    by_image = groupby(rows, itemgetter("img_id"))
    pairs = (_image(list(own), pictures, selection, numbers, source) for _, own in by_image)
    return checked_images((image for image in pairs if image.objects), source)


def _image(
    rows: list[Row], pictures: Pictures, selection: ScoringConfig | None, numbers: Iterator[int], source: str
) -> PairImage:
    image_id, name = rows[0]["img_id"], rows[0]["img_name"]
    where = f"{source}, index {rows[0]['index']}, image {image_id!r:.80}"
    if any(row["img_name"] != name for row in rows):
        raise UserError(f"{where}: img_name: rows of one image have different names; fix the rows")
    try:
        height, width = upright_size(pictures.read_image(name), name)
        kept = [
            (row, kept_sentences(row, selection.threshold, selection.fallback) if selection else tuple(row["pseudo_caption"]))
            for row in rows
        ]
        objects = tuple(
            PairObject(
                ref_id=row["index"],
                object_id=row["index"],
                seg_id=row["seg_id"],
                mask=Rle.of(read_mask(pictures, image_id, row["seg_id"], height, width)),
                sentences=sentences,
                sent_ids=tuple(next(numbers) for _ in sentences),
            )
            for row, sentences in kept
            if sentences
        )
    except BadInputError as error:
        raise UserError(f"{where}: {error}") from error
    return PairImage(image_id, name, height, width, TRAIN, objects, partial(pictures.read_image, name))


def kept_sentences(row: Row, threshold: float, fallback: Literal["drop", "unfiltered"]) -> tuple[str, ...]:
    """Returns the sentences of a row that pass the DoC filter (see selection.kept_candidates)."""
    kept = kept_indices(row["doc"], bool(row["one_mask"]), threshold, fallback)
    return tuple(row["pseudo_caption"][index] for index in kept)


def read_mask(masks: MaskFiles, image_id: str, seg_id: int, height: int, width: int) -> np.ndarray:
    """Reads the mask of a row of a pairs CSV, bool [H, W].

    Raises BadInputError when the file cannot be read, lies outside the folder of masks, has another size, or is blank (stage 2
    writes no row for a blank mask).
    """
    name = f"{image_id}/{seg_id}.png"
    if not names_a_folder(image_id):
        raise BadInputError(f"img_id: {image_id!r:.80} is not a valid folder name")
    data = masks.read_png(image_id, seg_id)
    try:
        mask = decode_mask(data)
    except BadInputError as error:
        raise BadInputError(f"{name!r:.80}: {error}") from error
    if mask.shape != (height, width):
        size = f"{mask.shape[1]}x{mask.shape[0]}"
        raise BadInputError(f"{name!r:.80}: {size} pixels, but the image has {width}x{height}; run stage 1 again")
    if mask.all() or not mask.any():
        raise BadInputError(f"{name!r:.80}: is blank (all 0 or all 1); run stage 1 again")
    return mask


def upright_size(data: bytes, name: str) -> tuple[int, int]:
    """Returns height and width of an image file after applying its EXIF orientation. Raises BadInputError."""
    try:
        with open_image(data) as file:
            width, height = file.size
            check_size(height, width)  # first: reading the orientation decodes a PNG
            turned = file.getexif().get(ExifTags.Base.Orientation) in SIDEWAYS
    except BadInputError:
        raise
    except Exception as error:  # damaged headers raise almost any exception
        raise BadInputError(f"{name!r:.80}: not a readable image ({type(error).__name__}); replace the file") from error
    return (width, height) if turned else (height, width)
