"""COCO's polygons and run lengths, whole and damaged."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from pseudo_ris.errors import BadInputError
from pseudo_ris.io.segmentation import decode_segmentation, read_counts

INSTANCES = Path(__file__).parents[1] / "formats" / "golden" / "refcoco" / "instances.json"
# sha1 of each mask, uint8 row by row, as REFER's own getMask gives it.
MASKS_OF_REFER = {
    501: "efbe2714583e7f55bf42ed6ff8855c6470328fcd",
    502: "55599f00730665e02e2cd4d5c72dfcd99f039581",
    503: "25cdf21ce8d8c62708c250021368bc0de2376ad3",
}


def text_counts(mask: np.ndarray) -> str:
    return coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()


def plain_counts(mask: np.ndarray) -> list[int]:
    """One pixel after the other, column by column."""
    counts, current = [0], False
    for pixel in mask.T.ravel():
        if pixel != current:
            counts.append(0)
            current = not current
        counts[-1] += 1
    return counts


def test_polygons_are_drawn_as_refer_draws_them():
    content = json.loads(INSTANCES.read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    for each in content["annotations"]:
        mask = decode_segmentation(each["segmentation"], *sizes[each["image_id"]])
        assert hashlib.sha1(mask.astype(np.uint8).tobytes()).hexdigest() == MASKS_OF_REFER[each["id"]]


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40))
def test_run_lengths_are_read_whole(seed, height, width):
    rng = np.random.default_rng(seed)
    mask = rng.random((height, width)) < rng.choice([0, 0.02, 0.5, 0.98, 1])
    counts = plain_counts(mask)
    assert read_counts(text_counts(mask)).tolist() == counts
    for form in (counts, text_counts(mask)):
        decoded = decode_segmentation({"size": [height, width], "counts": form}, height, width)
        assert decoded.dtype == bool
        assert np.array_equal(decoded, mask)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (None, "neither polygons nor run lengths"),
        ([], "neither polygons nor run lengths"),
        ("polygon", "neither polygons nor run lengths"),
        ([[1, 2, 3, 4]], "three or more points"),
        ([[1, 2, 3, 4, 5, 6, 7]], "three or more points"),
        ([1, 2, 3, 4, 5, 6], "three or more points"),
        ([[1, 2, 9, 2, 9, 9], {"size": [20, 30]}], "three or more points"),
        ([[1, 2, 9, 2, 9, "9"]], "a point far outside of 30x20 pixels"),
        ([[1, 2, 9, 2, 9, float("nan")]], "a point far outside"),
        ([[1, 2, 9, 2, 10**400, 9]], "a point far outside"),
        ([[1, 2, 9, 2, 9, 41]], "a point far outside"),
        ([[0, 0, 29, 0] * 200], "too long for 30x20 pixels"),
        ({"size": [30, 20], "counts": [600]}, "of size .30, 20., the image is .20, 30."),
        ({"size": [20, 30]}, "neither COCO's text nor a list"),
        ({"size": [20, 30], "counts": []}, "do not fill 30x20 pixels"),
        ({"size": [20, 30], "counts": [599]}, "do not fill"),
        ({"size": [20, 30], "counts": [601, -1]}, "neither COCO's text nor a list"),
        ({"size": [20, 30], "counts": [599.0, 1]}, "neither COCO's text nor a list"),
        ({"size": [20, 30], "counts": [10**400]}, "neither COCO's text nor a list"),
        ({"size": [20, 30], "counts": "5"}, "do not fill"),
        ({"size": [20, 30], "counts": "hb0A"}, "do not fill"),
        ({"size": [20, 30], "counts": ""}, "no whole text"),
        ({"size": [20, 30], "counts": "o" * 30}, "no whole text"),
        ({"size": [20, 30], "counts": "\x7f"}, "no whole text"),
        ({"size": [20, 30], "counts": "0é"}, "no whole text"),
        ({"size": [20, 30], "counts": "0\ud800"}, "no whole text"),
        ({"size": [20, 30], "counts": "0P"}, "no whole text"),
        ({"size": [20, 30], "counts": "PPPPPPP0"}, "larger than any image"),
    ],
)
def test_what_is_no_mask_is_refused(segmentation, message):
    with pytest.raises(BadInputError, match=message) as caught:
        decode_segmentation(segmentation, 20, 30)
    assert len(str(caught.value)) < 200


def test_damaged_run_lengths_never_give_anything_but_a_mask_or_an_error():
    rng = random.Random(0)
    whole = text_counts(np.eye(20, 30, dtype=bool))
    refused = 0
    for _ in range(3000):
        characters = list(whole)
        for _ in range(rng.randint(1, 3)):
            characters[rng.randrange(len(characters))] = chr(rng.randint(40, 120))
        try:
            mask = decode_segmentation({"size": [20, 30], "counts": "".join(characters)[: rng.randint(1, 60)]}, 20, 30)
            assert mask.shape == (20, 30)
        except BadInputError:
            refused += 1
    assert refused > 2000
