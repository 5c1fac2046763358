"""The SAM adapter against segment_anything itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from segment_anything import SamAutomaticMaskGenerator

from pseudo_ris.checkpoints.weights import save_weights
from pseudo_ris.config import SamConfig
from pseudo_ris.errors import UserError
from pseudo_ris.io.boxes import box_of
from pseudo_ris.models.sam.segmenter import AutomaticSam, build_sam

# An untrained model: the filters are set to let some of its masks through.
CONFIG = SamConfig(points_per_side=4, points_per_batch=5, pred_iou_thresh=0.0, stability_score_thresh=0.05, box_nms_thresh=0.98)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(3)
    model = build_sam("demo")
    for head in model.mask_decoder.output_hypernetworks_mlps:  # logits large enough to pass for stable masks
        torch.nn.init.normal_(head.layers[-1].weight, std=20.0)
    return model


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)


@pytest.mark.parametrize("area", [0, 30])
def test_equals_the_automatic_mask_generator(model, image, area):
    records = SamAutomaticMaskGenerator(
        model,
        points_per_side=CONFIG.points_per_side,
        pred_iou_thresh=CONFIG.pred_iou_thresh,
        stability_score_thresh=CONFIG.stability_score_thresh,
        box_nms_thresh=CONFIG.box_nms_thresh,
        min_mask_region_area=area,
    ).generate(image)
    found = AutomaticSam(model, replace(CONFIG, min_mask_region_area=area)).generate(image)
    assert len(records) > 1
    assert found.masks.shape == (len(records), 40, 56)
    for index, record in enumerate(records):
        assert np.array_equal(found.masks[index], record["segmentation"])
        assert found.predicted_iou[index] == pytest.approx(record["predicted_iou"], abs=1e-5)
        assert found.stability[index] == pytest.approx(record["stability_score"], abs=1e-5)


def test_boxes_are_tight_and_half_open(model, image):
    found = AutomaticSam(model, CONFIG).generate(image)
    assert [tuple(box) for box in found.boxes] == [box_of(mask) for mask in found.masks]


def test_types_and_order(model, image):
    found = AutomaticSam(model, CONFIG).generate(image)
    assert (found.masks.dtype, found.boxes.dtype) == (bool, np.int64)
    assert (found.predicted_iou.dtype, found.stability.dtype) == (np.float32, np.float32)
    assert np.all(np.diff(found.predicted_iou) <= 0)


def test_bgr_feeds_the_channels_reversed(model, image):
    as_bgr = AutomaticSam(model, replace(CONFIG, channel_order="bgr")).generate(image)
    reversed_rgb = AutomaticSam(model, CONFIG).generate(np.ascontiguousarray(image[..., ::-1]))
    assert np.array_equal(as_bgr.masks, reversed_rgb.masks)
    assert not np.array_equal(as_bgr.predicted_iou, AutomaticSam(model, CONFIG).generate(image).predicted_iou)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (2, 2000), (2000, 1)])
def test_images_of_any_shape(model, shape):
    found = AutomaticSam(model, CONFIG).generate(np.full((*shape, 3), 128, np.uint8))
    assert found.masks.shape[1:] == shape
    assert len(found.masks) == len(found.boxes) == len(found.predicted_iou) == len(found.stability)


def test_nothing_passes_a_strict_filter(model, image):
    found = AutomaticSam(model, replace(CONFIG, pred_iou_thresh=1.0)).generate(image)
    assert found.masks.shape == (0, 40, 56)
    assert found.boxes.shape == (0, 4)


def test_weights_come_from_the_setting(model, image, tmp_path):
    path = tmp_path / "sam.safetensors"
    save_weights(model, path, {})
    loaded = AutomaticSam.from_config(replace(CONFIG, weights=str(path)), "cpu").generate(image)
    own = AutomaticSam(model, CONFIG).generate(image)
    assert loaded.predicted_iou[0] == pytest.approx(own.predicted_iou[0], abs=0.02)  # they are stored in float16
    with pytest.raises(UserError, match="not weights of sam"):
        save_weights(torch.nn.Linear(2, 2), path, {})
        AutomaticSam.from_config(replace(CONFIG, weights=str(path)), "cpu")


@pytest.mark.parametrize(("architecture", "millions"), [("vit_b", 93.7), ("vit_l", 312.3), ("vit_h", 641.1)])
def test_published_sizes(architecture, millions):
    with torch.device("meta"):
        model = build_sam(architecture)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


def test_demo_size(model):
    assert sum(p.numel() for p in model.parameters()) <= 1.3e6


def test_unknown_architecture():
    with pytest.raises(ValueError, match=r"sam\.architecture: 'vit_x'"):
        build_sam("vit_x")
