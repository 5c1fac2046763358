"""Masks as run lengths, and what is refused in a set."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as coco_mask
from random_sets import image, sets, thing

from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.pairs.pair_set import Rle, check_image, checked_images

masks = arrays.arrays(bool, arrays.array_shapes(min_dims=2, max_dims=2, max_side=12))


def runs_of(mask: np.ndarray) -> list[int]:
    """Run lengths counted pixel by pixel."""
    runs, value = [0], False
    for pixel in mask.T.ravel():
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return runs


@settings(max_examples=30, deadline=None)
@given(masks)
def test_a_mask_comes_back_from_text_from_a_list_and_from_pycocotools(mask):
    rle = Rle.of(mask)
    assert np.array_equal(rle.decode(), mask)
    assert np.array_equal(coco_mask.decode(rle.segmentation), mask)
    assert Rle.of_segmentation({"size": list(mask.shape), "counts": runs_of(mask)}, *mask.shape) == rle
    assert Rle.of_segmentation([rle.segmentation], *mask.shape) == rle


@settings(max_examples=30, deadline=None)
@given(masks)
def test_box_and_area_are_those_of_the_pixels(mask):
    rows, columns = np.nonzero(mask)
    box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) if len(rows) else (0, 0, 0, 0)
    assert Rle.of(mask).box_and_area() == (box, len(rows))


def test_one_mask_has_one_text_whatever_was_read():
    odd = Rle.of_segmentation({"size": [4, 5], "counts": [3, 0, 2, 4, 0, 0, 11]}, 4, 5)
    assert odd == Rle.of_segmentation({"size": [4, 5], "counts": [5, 4, 11]}, 4, 5)


def test_overlapping_polygons_are_joined():
    polygons = [[1, 1, 12, 1, 12, 9, 1, 9], [5, 3, 18, 3, 18, 14, 5, 14], [2.5, 2.5, 9, 2, 4, 12]]
    joined = Rle.of_segmentation(polygons, 16, 20).decode()
    single = [coco_mask.decode(coco_mask.frPyObjects([polygon], 16, 20))[..., 0].astype(bool) for polygon in polygons]
    assert np.array_equal(joined, single[0] | single[1] | single[2])
    two = [Rle.of(mask).segmentation for mask in single[:2]]
    assert np.array_equal(Rle.of_segmentation(two, 16, 20).decode(), single[0] | single[1])


@pytest.mark.parametrize(
    "counts", ["", "9", "P", "PPPP", "oooooooooooooo0", "\x00", "é", "0" * 500, "d0" + "o" * 7, "h0~", "O`0"]
)
def test_counts_that_do_not_fill_the_size_are_refused(counts):
    for read in (Rle((4, 5), counts).decode, lambda: Rle.of_segmentation({"size": [4, 5], "counts": counts}, 4, 5)):
        with pytest.raises(BadInputError, match="run lengths") as caught:
            read()
        assert "\n" not in str(caught.value)


@given(st.text("0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghijklmno", max_size=12))
def test_any_counts_give_a_mask_of_the_size_or_an_error(counts):
    with suppress(BadInputError):
        assert Rle((3, 4), counts).decode().shape == (3, 4)


@pytest.mark.parametrize(
    "segmentation",
    [None, [], {}, "x", [[]], [[1, 2, 3, 4]], [[1, 2, 3, 4, 5]], [[0, 0, 5, 5, float("nan"), 1]], [[0, 0, 1e9, 0, 1, 1]],
     [{"size": [4, 5], "counts": "9"}, []], {"size": [5, 4], "counts": [20]}, {"size": [4, 5], "counts": [-1, 21]},
     {"size": [4, 5], "counts": [10**30]}, {"size": [4, 5], "counts": [20.0]}],
)  # fmt: skip
def test_what_is_no_segmentation_is_refused(segmentation):
    with pytest.raises(BadInputError):
        Rle.of_segmentation(segmentation, 4, 5)


@pytest.mark.parametrize(("height", "width"), [(0, 5), (-4, -5), (4.0, 5), (True, 5), (None, 5), (20_000, 20_000)])
def test_sizes_that_are_no_images_are_refused_before_anything_is_made(height, width):
    with pytest.raises(BadInputError, match="pixels"):
        Rle.of_segmentation({"size": [height, width], "counts": []}, height, width)


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("name", {"name": "../x.png"}),
        ("name", {"name": "/x.png"}),
        ("name", {"name": "a//b.png"}),
        ("name", {"name": "\ud800.png"}),
        ("height", {"height": 0}),
        ("width", {"width": 10**6, "height": 10**6}),
        ("image_id", {"image_id": "\udcff", "name": "x.png"}),
        ("split", {"split": "../val"}),
        ("split", {"split": ""}),
        ("ref_id", {"objects": (thing(2**63),)}),
        ("seg_id", {"objects": (thing(1, seg_id=True),)}),
        ("mask", {"objects": (thing(1, mask=Rle((3, 4), "<")),)}),
        ("sent_ids", {"objects": (thing(1, "a", sent_ids=()),)}),
        ("sent_ids", {"objects": (thing(1, "a", sent_ids=("1",)),)}),
        ("sentences", {"objects": (thing(1, "\ud83c"),)}),
        ("sentences", {"objects": (thing(1, None),)}),
    ],
)
def test_what_no_format_could_hold_is_named(field, changes):
    check_image(image(objects=(thing(1, "a dog"),)))
    with pytest.raises(BadInputError, match=field) as caught:
        check_image(image(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("message", "second"),
    [
        ("duplicate in split train", image("7")),
        ("image_id: used for both", image("7", split="val", name="x.png")),
        ("image_id: used for both", image("7", split="val", height=11)),
        ("is also the name of image '7'", image("8", name="7.png")),
        ("ref_id: 1 is a duplicate", image("8", (thing(1),))),
        ("object_id: 1 is used for two", image("8", (thing(2, object_id=1),))),
        ("object_id: 1 is used for two", image("7", (thing(2, object_id=1, seg_id=1),), split="val")),
    ],
)
def test_images_that_contradict_each_other_are_named(message, second):
    with pytest.raises(UserError, match=message) as caught:
        list(checked_images([image("7", (thing(1),)), second], "here"))
    assert str(caught.value).startswith("here, image ")


@settings(max_examples=15, suppress_health_check=list(HealthCheck), deadline=None)
@given(sets())
def test_sound_sets_pass(images):
    assert list(checked_images(images, "here")) == images
