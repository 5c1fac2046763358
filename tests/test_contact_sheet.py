"""The picture of the pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pseudo_ris.config import ScoringConfig
from pseudo_ris.contact_sheet import TILE, Entry, best_expression, draw_tile, write_contact_sheet
from pseudo_ris.drawing import COLOURS
from pseudo_ris.interchange.pairs import write_pairs
from pseudo_ris.interchange.parts import PartStore
from pseudo_ris.masks.store import MaskStore
from pseudo_ris.records import CaptionRecord, ImageRecord, MaskCaptions, MaskRecord


def block(x0: int, x1: int) -> np.ndarray:
    mask = np.zeros((60, 90), bool)
    mask[20:40, x0:x1] = True
    return mask


def test_best_is_the_first_of_the_highest():
    assert best_expression({"pseudo_caption": ["a", "b", "c"], "doc": [1.0, 2.0, 2.0]}) == ("b", 2.0)


def test_outline_and_legend_share_a_colour():
    image = np.full((60, 90, 3), 120, np.uint8)
    tile = np.asarray(draw_tile(image, [Entry(block(10, 30), "left", 2.0, True), Entry(block(50, 80), "right", 2.0, True)], 2))
    assert tile.shape[1] == TILE
    picture, legend = tile[:TILE].reshape(-1, 3), tile[TILE:].reshape(-1, 3)
    for colour in COLOURS[:2]:
        assert (picture == colour).all(1).any()
        assert (np.abs(legend.astype(int) - colour).max(1) < 12).any()
    assert not (picture == COLOURS[2]).all(1).any()


@pytest.mark.parametrize("text", ["x" * 300, "", "ein Bällchen"])
def test_any_text_fits_its_tile(text):
    image = np.full((90, 60, 3), 120, np.uint8)
    assert draw_tile(image, [Entry(block(10, 30)[:, :60].repeat(2, 0)[:90], text, 1.0, False)] * 12, 3).size[0] == TILE


def test_sheet_shows_images_with_and_without_masks(tmp_path):
    images, masks, output = tmp_path / "images", tmp_path / "masks", tmp_path / "pairs"
    images.mkdir()
    store, parts = MaskStore(masks), PartStore(output, "pairs")
    store.prepare()
    parts.prepare()
    ids = {"a": "7", "b": "b", "c": "c"}  # the first as an annotation file gives it
    records = [ImageRecord(ids[name], f"{name}.png", (images / f"{name}.png").read_bytes) for name in ids]
    for record in records:
        Image.new("RGB", (90, 60), "gray").save(images / record.name)
    store.write(records[0], "k", [MaskRecord(0, block(10, 30), (10, 20, 30, 40), 0.9, "sam")], 60, 90)
    store.write(records[1], "k", [], 60, 90)
    caption = CaptionRecord("a ball", "masked", "beam", "ball", 1.0, 1.0, 1.0, 1.0, 1.0, None)
    parts.write(records[0], "k", [MaskCaptions(0, True, (caption,))])
    parts.write(records[1], "k", [])
    write_pairs(parts.read_all(records), output, "pairs", ScoringConfig(threshold=1.0))
    write_contact_sheet(images, masks, output / "pairs.csv", tmp_path / "sheet.png", 1.0)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 2 * TILE
        assert sheet.width < 3 * TILE
    assert Path(tmp_path / "sheet.png").stat().st_size > 1000
