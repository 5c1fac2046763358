"""Draws a contact sheet: images with mask outlines and the best expression of each mask (`pseudo-ris contact-sheet`)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from pseudo_ris.config import ScoringConfig
from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.io.files import require_file_place, write_output
from pseudo_ris.io.images import decode_image, list_images, require_outside
from pseudo_ris.pairs.assembly import read_pairs
from pseudo_ris.pairs.csv_pairs import read_mask
from pseudo_ris.pairs.pictures import MaskFiles
from pseudo_ris.pairs.rows import Row
from pseudo_ris.records import ImageRecord
from pseudo_ris.storage.mask_store import MaskStore
from pseudo_ris.visual.drawing import COLOURS, MUTED, Colour, Layer, draw_labelled, draw_masks, draw_sheet

THRESHOLD = ScoringConfig().threshold
TILE = 360
MOST_LINES = 8
"""Maximum lines of a tile's legend, without the image's name."""


@dataclass(frozen=True)
class Entry:
    """One mask in the picture. kept: the DoC of its best expression is above the threshold."""

    mask: np.ndarray
    text: str
    doc: float
    kept: bool


def best_expression(row: Row) -> tuple[str, float]:
    """Returns the candidate of a CSV row with the highest DoC (the first in case of ties) and its DoC."""
    docs: Sequence[float] = row["doc"]
    best = int(np.argmax(docs))
    return row["pseudo_caption"][best], docs[best]


def entries_of(rows: Sequence[Row], masks: MaskFiles, image: np.ndarray, threshold: float) -> list[Entry]:
    """The masks of an image's CSV rows, without those that have no expression. Raises BadInputError."""
    entries = []
    for row in rows:
        if row["doc"]:
            mask = read_mask(masks, row["img_id"], row["seg_id"], *image.shape[:2])
            text, doc = best_expression(row)
            entries.append(Entry(mask, text, doc, doc > threshold))
    return entries


def draw_tile(
    name: str, image: np.ndarray, entries: Sequence[Entry], lines: int, side: int = TILE, square: bool = True
) -> Image.Image:
    """One image (RGB uint8 [H, W, 3]) over its name and its legend of `lines` lines; `side` pixels wide.

    square: the image stands in a square field, so that all tiles of a sheet have one size.
    """
    colours = [COLOURS[number % len(COLOURS)] for number in range(len(entries))]
    layers = [Layer(entry.mask, colour) for entry, colour in zip(entries, colours, strict=True)]
    legend = [(_legend(entry), colour) for entry, colour in zip(entries, colours, strict=True)]
    shown = _cut(legend or [("no object found", MUTED)], lines)
    picture = draw_masks(image, layers, side)
    return draw_labelled(picture, shown, (side, side if square else picture.shape[0]), lines, title=name)


def write_contact_sheet(
    images: Path, masks: Path, pairs: Path, sheet: Path, threshold: float, count: int = 24, columns: int = 4
) -> None:
    """Writes the PNG `sheet` for the first `count` images that have rows in the CSV or were processed by stage 1.

    Skips rows without an expression. Raises UserError when an option, the CSV, an image or a mask does not fit.
    """
    if sheet.suffix != ".png":
        raise UserError(f"--sheet {sheet}: must end in .png")
    require_file_place(sheet, "--sheet")
    require_outside(sheet, images, "--sheet")
    if count < 1:
        raise UserError(f"--count {count}: must be 1 or more")
    rows: dict[str, list[Row]] = {}
    for row in read_pairs(pairs):
        rows.setdefault(str(row["img_name"]), []).append(row)
    store = MaskStore.existing(masks)
    records = list_images(images)
    if rows and rows.keys().isdisjoint(record.name for record in records):
        raise UserError(f"--images {images}: contains no image of {pairs}; give the folder that stage 2 was run with")
    chosen = list(islice((record for record in records if record.name in rows or store.is_known(record)), count))
    if not chosen:
        raise UserError(
            f"--masks {masks}: contains no masks of the images in {images}; give the folders that stage 2 was run with"
        )
    lines = min(MOST_LINES, max(1, *(len(rows.get(record.name, ())) for record in chosen)))
    tiles = [_tile_of(record, rows.get(record.name, ()), store, threshold, lines, pairs) for record in chosen]
    content = io.BytesIO()
    draw_sheet(tiles, min(columns, len(tiles))).save(content, "png")
    write_output(sheet, content.getvalue())


def _tile_of(
    record: ImageRecord, rows: Sequence[Row], store: MaskStore, threshold: float, lines: int, pairs: Path
) -> Image.Image:
    try:
        image = decode_image(record.read(), record.name)
        entries = entries_of(rows, store, image, threshold)
    except BadInputError as error:
        raise UserError(f"{pairs}, image {record.name!r:.80}: {error}") from error
    return draw_tile(record.name, image, entries, lines)


def _legend(entry: Entry) -> str:
    return f"{entry.text}  {entry.doc:.2f}" + ("" if entry.kept else "  (not kept)")


def _cut(legend: list[tuple[str, Colour]], lines: int) -> list[tuple[str, Colour]]:
    if len(legend) <= lines:
        return legend
    return [*legend[: lines - 1], (f"and {len(legend) - lines + 1} more", MUTED)]
