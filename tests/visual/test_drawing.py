"""Masks on their picture, and legends."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import ImageFont

from pseudo_ris.visual.drawing import (
    BACKGROUND,
    COLOURS,
    FONT_SIZE,
    LINE,
    MUTED,
    PADDING,
    Layer,
    draw_labelled,
    draw_masks,
    draw_sheet,
)

GREY = np.full((40, 60, 3), 120, np.uint8)


def block() -> np.ndarray:
    mask = np.zeros((40, 60), bool)
    mask[10:30, 20:50] = True
    return mask


def test_a_tint_fills_a_mask_and_none_leaves_it():
    tinted = draw_masks(GREY, [Layer(block(), (220, 20, 20), tint=0.5)], 120)
    assert tinted.shape == (80, 120, 3)
    assert tinted[40, 70].tolist() == [170, 70, 70]
    assert tinted[4, 4].tolist() == [120, 120, 120]
    outlined = draw_masks(GREY, [Layer(block(), (220, 20, 20), tint=0)], 120)
    assert outlined[40, 70].tolist() == [120, 120, 120]
    assert (outlined == (220, 20, 20)).all(2).any()


def test_pictures_come_out_as_they_were_where_nothing_is_drawn():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    before = pixels.copy()
    np.testing.assert_array_equal(draw_masks(pixels, [], 60), pixels)
    draw_masks(pixels, [Layer(block(), COLOURS[0])], 60)
    np.testing.assert_array_equal(pixels, before)


@pytest.mark.parametrize("text", ["short", "a word " * 20, "il" * 200, "WM" * 200, "ein Bällchen … " * 20, ""])
def test_a_text_is_cut_to_the_longest_that_fits(text):
    font = ImageFont.load_default(FONT_SIZE)
    fitting = text
    kept = len(text)
    while font.getlength(fitting) > 192:
        kept -= 1
        fitting = text[:kept] + "…"
    cut, whole = (draw_labelled(GREY, [(shown, MUTED)], (200, 50), 1) for shown in (text, fitting))
    np.testing.assert_array_equal(np.asarray(cut), np.asarray(whole))


@pytest.mark.parametrize("title", ["short.png", "folder/" * 20 + "a.png", "WM" * 200])
def test_of_a_title_that_is_too_wide_the_end_stays(title):
    font = ImageFont.load_default(FONT_SIZE)
    fitting = title
    kept = len(title)
    while font.getlength(fitting) > 192:
        kept -= 1
        fitting = "…" + title[-kept:]
    cut, whole = (draw_labelled(GREY, [("a", MUTED)], (200, 50), 1, title=shown) for shown in (title, fitting))
    np.testing.assert_array_equal(np.asarray(cut), np.asarray(whole))
    assert cut.height == 50 + 2 * LINE + PADDING


def test_a_line_end_within_a_text_is_a_space():
    broken, whole = (draw_labelled(GREY, [(text, MUTED)], (200, 50), 1) for text in ("a\nb\tc", "a b c"))
    np.testing.assert_array_equal(np.asarray(broken), np.asarray(whole))


def test_a_picture_stands_in_the_middle_over_its_legend():
    tile = np.asarray(draw_labelled(GREY, [("a", COLOURS[0])], (100, 50), 3))
    assert tile.shape == (50 + 3 * LINE + PADDING, 100, 3)
    assert (tile[10:50, 20:80] == 120).all()
    assert (tile[:10] == BACKGROUND).all() and (tile[10:50, :20] == BACKGROUND).all()
    assert (tile[50:] != BACKGROUND).any()


def test_a_sheet_has_its_tiles_in_rows():
    tile = draw_labelled(GREY, [], (60, 40), 0)
    sheet = draw_sheet([tile] * 5, 2)
    assert sheet.size == (2 * (60 + PADDING) + PADDING, 3 * (tile.height + PADDING) + PADDING)
