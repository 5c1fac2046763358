"""From an image and its masks to candidate expressions."""

from dataclasses import replace

import numpy as np
import pytest
from coca_oracle import random_captioner

from pseudo_ris.captions.crops import CROP_SETS
from pseudo_ris.captions.distinctive import write_candidates
from pseudo_ris.config import CropConfig, DecodingConfig
from pseudo_ris.errors import UserError

IMAGE = np.random.default_rng(1).integers(0, 256, (30, 40, 3), dtype=np.uint8)
DECODING = DecodingConfig(max_length=9)
STRATEGIES = ["beam", *(f"top_k_{k}" for k in (5, 7, 9, 11, 13)), *(f"top_p_{p}" for p in (0.4, 0.5, 0.6, 0.7, 0.8))]


def boxes_as_masks(*boxes):
    masks = np.zeros((len(boxes), 30, 40), bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    return masks


MASKS = boxes_as_masks((0, 0, 20, 20), (15, 5, 39, 30), (7, 9, 8, 25))


@pytest.fixture(scope="module")
def captioner():
    return random_captioner(11)


def write(captioner, decoding=DECODING, masks=MASKS, seg_ids=(0, 2, 5), image_id="9"):
    return write_candidates(captioner, IMAGE, masks, seg_ids, image_id, decoding, CropConfig())


def test_order_and_names(captioner):
    candidates = write(captioner)
    assert len(candidates) == 3
    for of_mask in candidates:
        assert [(entry.crop_set, entry.strategy) for entry in of_mask] == [(c, s) for c in CROP_SETS for s in STRATEGIES]
        assert all(entry.text and "  " not in entry.text for entry in of_mask)


def test_noise_is_keyed_by_image_seg_id_and_seed(captioner):
    reference = write(captioner)
    assert write(captioner) == reference
    for changed in (
        write(captioner, image_id="10"),
        write(captioner, seg_ids=(1, 3, 4)),
        write(captioner, replace(DECODING, seed=1)),
    ):
        for of_mask, before in zip(changed, reference, strict=True):
            assert [entry.text for entry in of_mask if entry.strategy == "beam"] == [
                entry.text for entry in before if entry.strategy == "beam"
            ]
            assert of_mask != before


def test_a_strategy_does_not_depend_on_the_others(captioner):
    chosen = replace(DECODING, top_k=(7,), top_p=(0.8,))
    expected = [
        [entry for entry in of_mask if entry.strategy in ("beam", "top_k_7", "top_p_0.8")] for of_mask in write(captioner)
    ]
    assert write(captioner, chosen) == expected


def test_a_mask_depends_on_its_distractors_only_when_calibrated(captioner):
    assert write(captioner)[0] != write(captioner, masks=MASKS[:2], seg_ids=(0, 2))[0]
    plain = replace(DECODING, calibration="none")
    assert write(captioner, plain)[:2] == write(captioner, plain, masks=MASKS[:2], seg_ids=(0, 2))


def test_no_mask_no_candidates(captioner):
    assert write(captioner, masks=MASKS[:0], seg_ids=()) == []


def test_longer_captions_than_the_model_reads(captioner):
    with pytest.raises(UserError, match=r"decoding\.max_length.* 40 tokens at most, got 41"):
        write(captioner, replace(DECODING, max_length=41))
