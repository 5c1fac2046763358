"""A picture of the pairs: each image with its masks outlined in colours and each mask's best expression in its colour.

python -m pseudo_ris.contact_sheet --images DIR --masks DIR --pairs FILE.csv --sheet FILE.png
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pseudo_ris.cli import run_recipe
from pseudo_ris.config import ScoringConfig
from pseudo_ris.files import writing
from pseudo_ris.images import decode_image, list_images
from pseudo_ris.interchange.pairs import read_pairs
from pseudo_ris.masks.store import MaskStore

THRESHOLD = ScoringConfig().threshold
TILE = 360
PADDING = 10
LINE = 18
FONT_SIZE = 14
BACKGROUND = (250, 250, 250)
MUTED = (150, 150, 150)
# Dark enough to be read as text on the light ground, bright enough to be seen as an outline.
COLOURS = (
    (214, 39, 40),
    (31, 119, 180),
    (44, 140, 44),
    (200, 100, 0),
    (128, 62, 190),
    (0, 140, 150),
    (190, 30, 130),
    (120, 85, 30),
)


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
    height, width = image.shape[:2]
    scale = TILE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    picture = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    for number, entry in enumerate(entries):
        colour = COLOURS[number % len(COLOURS)]
        mask = cv2.resize(entry.mask.astype(np.float32), size, interpolation=cv2.INTER_LINEAR) > 0.5
        picture[mask] = (0.8 * picture[mask] + 0.2 * np.array(colour)).astype(np.uint8)
        outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outlines, -1, (255, 255, 255), 4, cv2.LINE_AA)
        cv2.drawContours(picture, outlines, -1, colour, 2, cv2.LINE_AA)
    tile = Image.new("RGB", (TILE, TILE + lines * LINE + PADDING), BACKGROUND)
    tile.paste(Image.fromarray(picture), ((TILE - size[0]) // 2, TILE - size[1]))
    pen = ImageDraw.Draw(tile)
    font = ImageFont.load_default(FONT_SIZE)
    texts = [_legend(entry) for entry in entries] or ["no object found"]
    for number, text in enumerate(_cut(texts, lines)):
        colour = COLOURS[number % len(COLOURS)] if number < len(entries) and text is texts[number] else MUTED
        pen.text((4, TILE + PADDING / 2 + number * LINE), _fitting(text, font), fill=colour, font=font)
    return tile


def draw_sheet(tiles: Sequence[Image.Image], columns: int) -> Image.Image:
    """Tiles of one size in rows of `columns`."""
    rows = math.ceil(len(tiles) / columns)
    width, height = tiles[0].size
    sheet = Image.new("RGB", (columns * (width + PADDING) + PADDING, rows * (height + PADDING) + PADDING), BACKGROUND)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        sheet.paste(tile, (PADDING + column * (width + PADDING), PADDING + row * (height + PADDING)))
    return sheet


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


def _cut(texts: Sequence[str], lines: int) -> Iterable[str]:
    if len(texts) <= lines:
        return texts
    return [*texts[: lines - 1], f"and {len(texts) - lines + 1} more"]


def _fitting(text: str, font: ImageFont.FreeTypeFont) -> str:
    while font.getlength(text) > TILE - 8:
        text = text[:-2].rstrip("…") + "…"
    return text


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
