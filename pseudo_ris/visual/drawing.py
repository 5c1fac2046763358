"""Draws masks on images, with a legend in their colours."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
PADDING = 10
LINE = 18
FONT_SIZE = 14
MARGIN = 4
BACKGROUND: Colour = (250, 250, 250)
MUTED: Colour = (150, 150, 150)
TITLE: Colour = (40, 40, 40)
# Dark enough for text on the light background, bright enough for outlines.
COLOURS: tuple[Colour, ...] = (
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
class Layer:
    """A mask, bool [H, W], and its colour. tint: opacity of the colour inside the mask; the outline is always drawn."""

    mask: np.ndarray
    colour: Colour
    tint: float = 0.2


def draw_masks(image: np.ndarray, layers: Iterable[Layer], side: int) -> np.ndarray:
    """Draws layers, the first one lowest, on an image (RGB uint8 [H, W, 3]) and scales its longer side to `side` pixels."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    picture = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    for layer in layers:
        mask = cv2.resize(layer.mask.astype(np.float32), size, interpolation=cv2.INTER_LINEAR) > 0.5
        picture[mask] = ((1 - layer.tint) * picture[mask] + layer.tint * np.array(layer.colour)).astype(np.uint8)
        outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outlines, -1, (255, 255, 255), 4, cv2.LINE_AA)
        cv2.drawContours(picture, outlines, -1, layer.colour, 2, cv2.LINE_AA)
    return picture


def draw_labelled(
    picture: np.ndarray, legend: Sequence[tuple[str, Colour]], size: tuple[int, int], lines: int, title: str = ""
) -> Image.Image:
    """Draws a picture above its title and its legend.

    legend: text and colour of each line; long texts are cut at the end. size: (width, height) of the field for the picture,
    which is aligned to its bottom centre. lines: height of the legend in lines. title: a line above the legend, cut at its
    start if too long; "" for none.
    """
    width, height = size
    font = ImageFont.load_default(FONT_SIZE)
    texts = [(_fitting(title, font, width - 2 * MARGIN, keep_end=True), TITLE)] if title else []
    tile = Image.new("RGB", (width, height + (len(texts) + lines) * LINE + PADDING), BACKGROUND)
    tile.paste(Image.fromarray(picture), ((width - picture.shape[1]) // 2, height - picture.shape[0]))
    texts += [(_fitting(text, font, width - 2 * MARGIN), colour) for text, colour in legend]
    pen = ImageDraw.Draw(tile)
    for number, (text, colour) in enumerate(texts):
        pen.text((MARGIN, height + PADDING / 2 + number * LINE), text, fill=colour, font=font)
    return tile


def draw_sheet(tiles: Sequence[Image.Image], columns: int) -> Image.Image:
    """Arranges tiles of one size in rows of `columns`."""
    rows = math.ceil(len(tiles) / columns)
    width, height = tiles[0].size
    sheet = Image.new("RGB", (columns * (width + PADDING) + PADDING, rows * (height + PADDING) + PADDING), BACKGROUND)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        sheet.paste(tile, (PADDING + column * (width + PADDING), PADDING + row * (height + PADDING)))
    return sheet


def _fitting(text: str, font: ImageFont.FreeTypeFont, width: float, keep_end: bool = False) -> str:
    """Returns `text` on one line, cut to at most `width` pixels; keeps its start, or its end if `keep_end`."""
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    if font.getlength(text) <= width:
        return text

    def cut(length: int) -> str:
        return f"…{text[len(text) - length :]}" if keep_end else f"{text[:length]}…"

    # Binary search: trying each length in turn takes minutes for texts of thousands of characters.
    too_long = bisect_right(range(len(text)), width, key=lambda length: font.getlength(cut(length)))
    return cut(max(0, too_long - 1))
