"""Automatic mask generation: the networks' arithmetic, equality with segment_anything, memory, precision."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from automatic_masks import PHOTOGRAPH, Reference
from PIL import Image

from pseudo_ris.checkpoints.random_weights import fill_at_random
from pseudo_ris.checkpoints.weights import ready_model
from pseudo_ris.config import SamConfig
from pseudo_ris.errors import UserError
from pseudo_ris.io.device import in_precision
from pseudo_ris.models.sam import automatic_masks
from pseudo_ris.models.sam.automatic_masks import AutomaticMasks
from pseudo_ris.models.sam.prompt_decoder import PromptDecoder
from pseudo_ris.models.sam.segmenter import build_sam

DEMO = SamConfig()
# Few points keep the tests short; several batches, the last one smaller.
FEW = replace(DEMO, points_per_side=6, points_per_batch=10)


def demo_sam():
    return ready_model(build_sam, DEMO, "sam")


@pytest.fixture(scope="module")
def model():
    return demo_sam()


@pytest.fixture(scope="module")
def scene(demo_images):
    return np.array(Image.open(sorted(demo_images.iterdir())[0]).convert("RGB"))


def assert_same(found, expected):
    """The same masks and boxes in the same order, scores up to rounding."""
    assert np.array_equal(found.masks, expected.masks)
    assert np.array_equal(found.boxes, expected.boxes)
    assert found.predicted_iou == pytest.approx(expected.predicted_iou, abs=1e-5)
    assert found.stability == pytest.approx(expected.stability, abs=1e-5)


def iou(mask, other):
    return (mask & other).sum() / (mask | other).sum()


@pytest.mark.parametrize("points", [1, 5])
def test_decoder_gives_the_logits_of_segment_anything(model, points):
    generator = torch.Generator().manual_seed(points)
    embedding = torch.randn(1, 64, 32, 32, generator=generator)
    at = 256 * torch.rand(points, 2, generator=generator, dtype=torch.float64)
    with torch.inference_mode():
        labels = torch.ones(points, 1, dtype=torch.int)
        sparse, dense = model.prompt_encoder(points=(at[:, None], labels), boxes=None, masks=None)
        positions = model.prompt_encoder.get_dense_pe()
        logits, predicted_iou = model.mask_decoder(embedding, positions, sparse, dense, multimask_output=True)
        decoder = PromptDecoder(model)
        prompts = decoder.decode(decoder.arrange(embedding), at)
        drawn = decoder.draw(prompts)
    assert torch.allclose(prompts.predicted_iou, predicted_iou, atol=1e-5)
    assert torch.allclose(drawn, logits, atol=1e-5 * logits.abs().max().item())


@pytest.mark.slow
@pytest.mark.parametrize("area", [0, 100])
def test_equals_segment_anything_with_the_shipped_weights(model, demo_images, area):
    config = replace(FEW, min_mask_region_area=area)
    masks = 0
    for path in sorted(demo_images.iterdir())[1:3]:
        image = np.array(Image.open(path).convert("RGB"))
        found = AutomaticMasks(model, config).generate(image)
        assert_same(found, Reference(model, config)(image))
        masks += len(found.masks)
    assert masks > 5


@pytest.mark.slow
@pytest.mark.parametrize("area", [0, 100])
def test_equals_segment_anything_at_the_demo_settings(model, demo_images, area):
    config = replace(DEMO, min_mask_region_area=area)
    for path in sorted(demo_images.iterdir())[3:5]:
        image = np.array(Image.open(path).convert("RGB"))
        assert_same(AutomaticMasks(model, config).generate(image), Reference(model, config)(image))


@pytest.mark.parametrize("shape", [(90, 300), (333, 200)])
def test_equals_segment_anything_on_images_of_other_shapes(model, scene, shape):
    image, config = np.array(Image.fromarray(scene).resize(shape[::-1])), replace(FEW, points_per_side=4)
    assert_same(AutomaticMasks(model, config).generate(image), Reference(model, config)(image))


@pytest.mark.parametrize("off", ["pred_iou_thresh", "stability_score_thresh", "box_nms_thresh"])
def test_equals_segment_anything_with_a_threshold_of_zero(model, scene, off):
    config = replace(FEW, points_per_side=3, **{off: 0.0})
    assert_same(AutomaticMasks(model, config).generate(scene), Reference(model, config)(scene))


@pytest.mark.slow
def test_equals_segment_anything_at_full_size():
    model = fill_at_random(build_sam("vit_b"), "sam")
    image = np.array(Image.open(PHOTOGRAPH).convert("RGB").resize((360, 240)))
    config = replace(FEW, points_per_side=2, pred_iou_thresh=0.5, stability_score_thresh=0.7, box_nms_thresh=1.0)
    config = replace(config, min_mask_region_area=0)
    found, expected = AutomaticMasks(model, config).generate(image), Reference(model, config)(image)
    assert len(expected.masks) > 3
    assert len(found.masks) == len(expected.masks)
    # Masks of random weights are rough: pixels whose logit is 0 up to rounding are met now and then.
    assert (found.masks != expected.masks).mean() < 1e-5
    assert np.abs(found.boxes - expected.boxes).max() <= 1
    assert found.predicted_iou == pytest.approx(expected.predicted_iou, abs=1e-5)
    assert found.stability == pytest.approx(expected.stability, abs=1e-4)


@pytest.mark.parametrize("batch", [1, 7, 36])
def test_batches_do_not_matter(model, scene, batch):
    found = AutomaticMasks(model, replace(FEW, points_per_batch=batch)).generate(scene)
    assert_same(found, AutomaticMasks(model, FEW).generate(scene))


def test_how_many_masks_are_drawn_at_once_does_not_matter(model, scene, monkeypatch):
    expected = AutomaticMasks(model, FEW).generate(scene)
    drawn = []
    stable = AutomaticMasks._stable

    def recorded(self, logits, *others):
        drawn.append(len(logits))
        return stable(self, logits, *others)

    monkeypatch.setattr(AutomaticMasks, "_stable", recorded)
    monkeypatch.setattr(automatic_masks, "DRAWN_BYTES", {"cpu": 1})
    assert_same(AutomaticMasks(model, FEW).generate(scene), expected)
    assert max(drawn) <= 3  # one prompt's


def test_only_prompts_that_pass_are_drawn(model, scene, monkeypatch):
    drawn = []
    draw = PromptDecoder.draw
    monkeypatch.setattr(PromptDecoder, "draw", lambda self, prompts: drawn.append(prompts.predicted_iou) or draw(self, prompts))
    AutomaticMasks(model, FEW).generate(scene)
    drawn = torch.cat(drawn)
    assert 0 < len(drawn) < FEW.points_per_side**2
    assert (drawn.amax(1) > FEW.pred_iou_thresh).all()


def test_candidates_are_kept_packed(model, scene):
    config = replace(FEW, pred_iou_thresh=0.0, stability_score_thresh=0.0, box_nms_thresh=1.0, min_mask_region_area=0)
    with torch.inference_mode():
        candidates = AutomaticMasks(model, config)._candidates(scene)
    corners = candidates.boxes.numpy()
    areas = (corners[:, 2:] + 1 - corners[:, :2]).prod(1)
    assert len(areas) == 3 * 36
    assert [packed.nbytes for packed in candidates.packed] == [-(-area // 8) for area in areas]


@pytest.mark.parametrize("precision", ["bf16", pytest.param("fp16", marks=pytest.mark.slow)])
def test_reduced_precision_gives_nearly_the_same_masks(model, scene, precision):
    expected = AutomaticMasks(model, FEW).generate(scene)
    reduced = demo_sam()
    in_precision(reduced.image_encoder, precision)
    found = AutomaticMasks(reduced, FEW).generate(scene)
    assert found.predicted_iou.dtype == np.float32
    assert reduced.mask_decoder.iou_token.weight.dtype == torch.float32
    best = [max(map(partial(iou, mask), found.masks)) for mask in expected.masks]
    assert np.mean(best) > 0.97


def test_compiling_is_refused_on_a_cpu(model):
    with pytest.raises(UserError, match=r"sam\.compiled: is for CUDA, SAM runs on cpu"):
        AutomaticMasks(model, replace(DEMO, compiled=True))
