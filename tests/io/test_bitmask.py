"""Packed masks against plain arithmetic on bool arrays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pseudo_ris.io.bitmask import iou_with, pack, shared_pixels


@given(
    height=st.integers(1, 9),
    width=st.sampled_from([1, 7, 8, 63, 64, 65, 130]),
    density=st.sampled_from([0.0, 0.02, 0.5, 1.0]),
    seed=st.integers(0, 999),
)
def test_areas_overlaps_and_ious(height, width, density, seed):
    rng = np.random.default_rng(seed)
    first, second = (rng.random((count, height, width)) < density for count in (2, 5))
    one, others = pack(first), pack(second)
    assert one.areas.tolist() == first.sum((1, 2)).tolist()
    for index, mask in enumerate(first):
        shared, joined = (mask & second).sum((1, 2)), (mask | second).sum((1, 2))
        assert shared_pixels(one, index, others).tolist() == shared.tolist()
        np.testing.assert_array_equal(iou_with(one, index, others), shared / np.maximum(joined, 1))


def test_boxes_hold_every_pixel_and_no_empty_border():
    masks = np.zeros((2, 10, 200), bool)
    masks[0, 3:7, 70:130] = True
    assert pack(masks).boxes.tolist() == [[3, 7, 1, 3], [0, 0, 0, 0]]


def test_no_masks():
    nothing, some = pack(np.zeros((0, 4, 5), bool)), pack(np.ones((2, 4, 5), bool))
    assert len(nothing) == 0
    assert shared_pixels(some, 0, nothing).tolist() == []


@pytest.mark.parametrize("shape", [(4097, 4099)])
def test_large_areas_are_exact(shape):
    full = np.ones((1, *shape), bool)
    almost = full.copy()
    almost[0, 17, 19] = False
    assert shared_pixels(pack(full), 0, pack(almost)).tolist() == [shape[0] * shape[1] - 1]
