"""Stretched squares; letterboxed ones are tested with the data set."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional

from pseudo_ris.ris.models.letterbox import Letterbox, Stretch, frame_of

NONE, ONE = np.zeros(3, np.float32), np.ones(3, np.float32)


def test_the_kind_decides():
    assert isinstance(frame_of("letterbox", 10, 20, 32), Letterbox)
    assert isinstance(frame_of("stretch", 10, 20, 32), Stretch)


@pytest.mark.parametrize(("height", "width"), [(30, 50), (64, 64), (300, 200)])
def test_a_stretched_picture_is_torchs_antialiased_bilinear_one(height, width):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    ours = Stretch.of(height, width, 64).image(pixels, NONE, ONE)
    batch = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    theirs = functional.interpolate(batch, (64, 64), mode="bilinear", antialias=True)[0] / 255
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1.01 / 255)  # it is rounded to a grey level


def test_pictures_are_normalised_channel_by_channel():
    pixels = np.full((8, 8, 3), 51, np.uint8)
    square = Stretch.of(8, 8, 32).image(pixels, np.array([0.1, 0.2, 0.3]), np.array([0.1, 0.2, 0.5]))
    np.testing.assert_allclose(square[:, 3, 5], [1, 0, -0.2], atol=1e-6)


def test_a_stretched_mask_takes_the_pixel_under_each_centre():
    mask = np.random.default_rng(1).random((30, 50)) < 0.5
    square = Stretch.of(30, 50, 64).mask(mask)
    rows, columns = (np.arange(64) + 0.5) * 30 / 64, (np.arange(64) + 0.5) * 50 / 64
    np.testing.assert_array_equal(square, mask[rows.astype(int)][:, columns.astype(int)])


def test_the_way_there_and_back_is_the_identity():
    frame = Stretch.of(30, 50, 64)
    there, back = (np.vstack([matrix, [0, 0, 1]]) for matrix in (frame.matrix, frame.inverse))
    np.testing.assert_allclose(there @ back, np.eye(3), atol=1e-12)
    # the centres of the corner pixels' outer corners meet
    np.testing.assert_allclose(there @ [-0.5, -0.5, 1], [-0.5, -0.5, 1])
    np.testing.assert_allclose(there @ [49.5, 29.5, 1], [63.5, 63.5, 1])


def test_a_mask_comes_back_where_it_was():
    mask = np.zeros((300, 500), bool)
    mask[60:180, 100:350] = True
    frame = Stretch.of(*mask.shape, 256)
    back = cv2.warpAffine(frame.mask(mask), frame.inverse, (500, 300), flags=cv2.INTER_LINEAR) > 0.5
    assert (back ^ mask).sum() <= 2 * (120 + 250)  # at most the outline
