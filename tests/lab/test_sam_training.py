"""Training of the demo SAM: what a batch holds, its losses, and that it repeats itself."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pseudo_ris.lab import train_sam as training
from pseudo_ris.models.cutler.cascade_rcnn import ARCHITECTURES, CascadeMaskRCNN

SIZE, FINE = 240, 288


@pytest.fixture(scope="module")
def scenes():
    """Three flat rectangles on grey, twice."""
    labels = np.zeros((2, 256, 256), np.uint8)
    for number, (x0, y0, x1, y1) in enumerate([(10, 20, 80, 60), (120, 30, 200, 150), (40, 160, 110, 240)], 1):
        labels[:, y0:y1, x0:x1] = number
    colours = np.array([[128, 128, 128], [250, 20, 20], [20, 250, 20], [20, 20, 250]], np.uint8)
    return SimpleNamespace(images=colours[labels], label_maps=labels)


def test_points_lie_on_their_targets(scenes):
    for seed in range(8):
        rng = np.random.default_rng(seed)
        _, inside, points, targets, _ = training._draw_sample(scenes.images[0], scenes.label_maps[0], SIZE, FINE, rng)
        for (x, y), target in zip(points, targets, strict=True):
            assert inside[0, int(y), int(x)] == 1
            if target.any():
                assert target[int(y * 0.4), int(x * 0.4)] > 0


def test_targets_show_whole_objects_where_the_image_does(scenes, monkeypatch):
    monkeypatch.setattr(training, "_random_look", lambda image, rng: image.astype(np.float32))
    for seed in range(8):
        rng = np.random.default_rng(seed)
        image, _, points, targets, _ = training._draw_sample(scenes.images[0], scenes.label_maps[0], SIZE, FINE, rng)
        small = torch.nn.functional.interpolate(image[None], targets.shape[1:], mode="area")[0]
        for (x, y), target in zip(points, targets, strict=True):
            if target.any():
                colour = image[:, int(y), int(x)]
                alike = ((small - colour[:, None, None]).abs() < 60).all(0)
                assert (alike & (target > 0.5)).sum() / (alike | (target > 0.5)).sum() > 0.8


def test_background_points_are_last_in_line_for_masks(scenes):
    rng = np.random.default_rng(1)
    _, _, _, targets, _ = training._draw_sample(scenes.images[0], scenes.label_maps[0], SIZE, FINE, rng)
    blank = ~targets.flatten(1).any(1)
    assert blank[: training.BACKGROUND_POINTS].all()
    assert blank.sum() == training.BACKGROUND_POINTS


def test_a_scene_without_objects_trains_the_quality_only():
    masks, quality, targets = torch.randn(4, 4, 6, 6), torch.full((4, 4), 0.5), torch.zeros(4, 1, 6, 6)
    assert training._prompt_loss(masks, quality, targets).item() == pytest.approx(0.25)


def test_mask_losses_equal_their_definitions():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 5, 5, generator=generator, dtype=torch.float64)
    targets = torch.rand(2, 1, 5, 5, generator=generator, dtype=torch.float64)
    losses = training._mask_losses(logits, targets)
    for n in range(2):
        for k in range(3):
            p, t = logits[n, k].sigmoid(), targets[n, 0]
            focal = (-(t * p.log() + (1 - t) * (1 - p).log()) * (p - t) ** 2).sum() / (t.sum() + 1)
            dice = 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)
            assert losses[n, k].item() == pytest.approx((focal + dice).item())


def test_centre_offsets_equal_a_loop():
    objects = torch.from_numpy(np.random.default_rng(0).integers(0, 4, (2, 8, 8)).astype(np.uint8))
    offsets = training._centre_offsets(objects)
    for b in range(2):
        for y in range(8):
            for x in range(8):
                ys, xs = torch.nonzero(objects[b] == objects[b, y, x], as_tuple=True)
                expected = torch.stack([xs.float().mean() - x, ys.float().mean() - y]) / 2
                assert torch.allclose(offsets[b, :, y, x], expected, atol=1e-5)


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    return CascadeMaskRCNN(ARCHITECTURES["demo"]).eval()


@pytest.mark.slow
def test_the_image_encoder_starts_from_the_detector(scenes, detector, monkeypatch):
    monkeypatch.setattr(training, "fit", lambda model, *_, **__: model)
    pyramid = training.train_sam([scenes], detector, 0).image_encoder.patch_embed.pyramid.state_dict()
    assert all(torch.equal(value, pyramid[name]) for name, value in detector.backbone.state_dict().items())


@pytest.mark.slow
def test_training_repeats_itself_and_leaves_stored_statistics(scenes, detector, monkeypatch):
    monkeypatch.setattr(training, "IMAGES_PER_STEP", 2)
    first, second, other = (training.train_sam([scenes], detector, seed, steps=2).state_dict() for seed in (0, 0, 1))
    statistics = [name for name in first if name.endswith(("running_mean", "running_var"))]
    assert statistics
    prefix = "image_encoder.patch_embed.pyramid."
    assert all(torch.equal(first[name], detector.backbone.state_dict()[name.removeprefix(prefix)]) for name in statistics)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
