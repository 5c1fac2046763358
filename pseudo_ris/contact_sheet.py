"""A picture of the pairs: each image with its masks outlined in colours and each mask's best expression in its colour.

python -m pseudo_ris.contact_sheet --images DIR --masks DIR --pairs FILE.csv --sheet FILE.png
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from pseudo_ris.cli import run_recipe
from pseudo_ris.config import ScoringConfig
from pseudo_ris.drawing import COLOURS, MUTED, Colour, Layer, draw_labelled, draw_masks, draw_sheet
from pseudo_ris.files import writing
from pseudo_ris.images import decode_image, list_images
from pseudo_ris.interchange.pairs import read_pairs
from pseudo_ris.masks.store import MaskStore

THRESHOLD = ScoringConfig().threshold
TILE = 360


@dataclass(frozen=True)
class Entry:
    """One mask in the picture. kept: its best expression's DoC is above the threshold."""

    mask: np.ndarray
    text: str
    doc: float
    kept: bool


def best_expression(row: dict[str, object]) -> tuple[str, float]:
    """The candidate of a CSV row with the highest DoC, the first of equals, and that DoC."""
    docs: Sequence[float] = row["doc"]
    best = int(np.argmax(docs))
    return row["pseudo_caption"][best], docs[best]


def draw_tile(image: np.ndarray, entries: Sequence[Entry], lines: int) -> Image.Image:
    """One image (RGB uint8 [H, W, 3]) over its legend of `lines` lines; TILE pixels wide."""
    colours = [COLOURS[number % len(COLOURS)] for number in range(len(entries))]
    layers = [Layer(entry.mask, colour) for entry, colour in zip(entries, colours, strict=True)]
    legend = [(_legend(entry), colour) for entry, colour in zip(entries, colours, strict=True)]
    shown = _cut(legend or [("no object found", MUTED)], lines)
    return draw_labelled(draw_masks(image, layers, TILE), shown, (TILE, TILE), lines)


def write_contact_sheet(
    images: Path, masks: Path, pairs: Path, sheet: Path, threshold: float, count: int = 24, columns: int = 4
) -> None:
    """Writes the PNG `sheet` for the first `count` readable images. Raises UserError."""
    rows: dict[str, list[dict[str, object]]] = {}
    for row in read_pairs(pairs):
        rows.setdefault(str(row["img_name"]), []).append(row)
    store = MaskStore.existing(masks)
    shown: list[tuple[np.ndarray, list[Entry]]] = []
    for record in list_images(images):
        if len(shown) == count:
            break
        found = rows.get(record.name, [])
        if found:
            record = replace(record, image_id=found[0]["img_id"])  # which an annotation file may have given
        elif not store.is_known(record):
            continue
        image = decode_image(record.read(), record.name)
        seg_ids, decoded = store.read(record).decode(*image.shape[:2])
        by_id = dict(zip(seg_ids, decoded, strict=True))
        best = [(by_id[row["seg_id"]], *best_expression(row)) for row in found]
        shown.append((image, [Entry(mask, text, doc, doc > threshold) for mask, text, doc in best]))
    lines = min(8, max((len(entries) for _, entries in shown), default=1))
    tiles = [draw_tile(image, entries, lines) for image, entries in shown]
    with writing(sheet):
        sheet.parent.mkdir(parents=True, exist_ok=True)
        draw_sheet(tiles, min(columns, len(tiles))).save(sheet)


def _legend(entry: Entry) -> str:
    return f"{entry.text}  {entry.doc:.2f}" + ("" if entry.kept else "  (not kept)")


def _cut(legend: list[tuple[str, Colour]], lines: int) -> list[tuple[str, Colour]]:
    if len(legend) <= lines:
        return legend
    return [*legend[: lines - 1], (f"and {len(legend) - lines + 1} more", MUTED)]


def main(argv: Sequence[str]) -> int:
    """The command line above."""
    parser = argparse.ArgumentParser(prog="python -m pseudo_ris.contact_sheet", description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True, help="folder of images")
    parser.add_argument("--masks", type=Path, required=True, help="stage 1's folder of masks")
    parser.add_argument("--pairs", type=Path, required=True, help="stage 2's CSV")
    parser.add_argument("--sheet", type=Path, required=True, help="PNG to write")
    parser.add_argument("--threshold", type=float, default=THRESHOLD, help=f"of the DoC filter (default: {THRESHOLD:g})")
    parser.add_argument("--count", type=int, default=24, help="at most this many images (default: 24)")
    arguments = parser.parse_args(argv)
    write_contact_sheet(
        arguments.images, arguments.masks, arguments.pairs, arguments.sheet, arguments.threshold, arguments.count
    )
    print(f"contact sheet: {arguments.sheet}")
    return 0


if __name__ == "__main__":
    run_recipe(main)
