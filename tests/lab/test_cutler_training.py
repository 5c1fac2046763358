from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pseudo_ris.lab.detection_batches import SceneSource, degrade, move, objects_of, recolour
from pseudo_ris.lab.detection_losses import (
    ROI_SAMPLES,
    anchor_labels,
    detection_loss,
    mask_targets,
    match,
    rpn_loss,
    sample_regions,
)
from pseudo_ris.lab.train_cutler import measure_statistics, train_cutler
from pseudo_ris.models.cutler import rpn
from pseudo_ris.models.cutler.box_coding import encode
from pseudo_ris.models.cutler.cascade_rcnn import ARCHITECTURES, CascadeMaskRCNN


def scene_set(count=4, size=64):
    """Bright rectangles on dark ground; label k has grey value 60 * k."""
    rng = np.random.default_rng(0)
    labels = np.zeros((count, size, size), np.uint8)
    for label_map in labels:
        for k in (1, 2, 3):
            x, y = rng.integers(0, size - 20, 2)
            label_map[y : y + 18, x : x + 14] = k
    return SimpleNamespace(images=np.repeat((60 * labels)[..., None], 3, axis=3), label_maps=labels)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_objects_have_tight_boxes():
    label_map = np.zeros((40, 50), np.uint8)
    label_map[10:20, 5:15] = 1
    label_map[12:16, 7:11] = 3
    label_map[0, 0:5] = 2
    boxes, labels = objects_of(label_map)
    assert labels.tolist() == [1]
    label_map[30:38, 20:28] = 3
    boxes, labels = objects_of(label_map)
    assert labels.tolist() == [1, 3]
    assert boxes.tolist() == [[5, 10, 15, 20], [7, 12, 28, 38]]


def test_moving_keeps_images_and_labels_together():
    scenes = scene_set()
    images = torch.from_numpy(scenes.images).permute(0, 3, 1, 2).float()
    moved, labels = move(images, torch.from_numpy(scenes.label_maps), np.random.default_rng(1))
    assert not torch.equal(moved, images)
    assert (labels > 0).any()
    inner = -torch.nn.functional.max_pool2d(-labels.float()[:, None], 5, stride=1, padding=2)
    outer = torch.nn.functional.max_pool2d(labels.float()[:, None], 5, stride=1, padding=2)
    flat = (inner == outer)[:, 0] & (inner > 0)[:, 0]
    assert flat.any()
    torch.testing.assert_close(moved[:, 0][flat], 60.0 * labels[flat], atol=0.1, rtol=0)


def test_colours_change_but_stay_pixels():
    images = torch.rand((16, 3, 32, 32), generator=generator()) * 255
    changed = degrade(recolour(images, np.random.default_rng(0)), np.random.default_rng(1))
    assert changed.min() >= 0
    assert changed.max() <= 255
    assert torch.equal(changed, changed.round())
    assert (changed - images).abs().mean() > 5


def test_draws_depend_on_the_seed_only():
    source = SceneSource([scene_set(), scene_set(2)])
    assert len(source.places) == 6
    first, again, other = (source.draw(np.random.default_rng(seed), 3) for seed in (5, 5, 6))
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)
    assert first.images.shape == (3, 3, 64, 64)
    assert [len(boxes) for boxes in first.boxes] == [len(labels) for labels in first.labels]


def test_matching_takes_the_greatest_overlap():
    truth = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0]])
    found = match(torch.tensor([[21.0, 0.0, 31.0, 10.0], [0.0, 0.0, 10.0, 5.0], [50.0, 50.0, 60.0, 60.0]]), truth)
    assert found.index.tolist()[:2] == [1, 0]
    assert found.iou.tolist() == pytest.approx([9 / 11, 0.5, 0.0])
    assert match(truth, torch.zeros(0, 4)).iou.tolist() == [0.0, 0.0]


def test_anchor_labels():
    truth = torch.tensor([[0.0, 0.0, 10.0, 10.0], [100.0, 0.0, 140.0, 40.0]])
    anchors = torch.tensor(
        [
            [0.0, 0.0, 10.0, 8.0],  # IoU 0.8
            [0.0, 0.0, 10.0, 5.0],  # 0.5
            [40.0, 0.0, 60.0, 20.0],  # 0
            [100.0, 0.0, 110.0, 40.0],  # 0.25, yet the second object's best
        ]
    )
    labels, index = anchor_labels(anchors, truth)
    assert labels.tolist() == [1, -1, 0, 1]
    assert index[[0, 3]].tolist() == [0, 1]
    assert anchor_labels(anchors, torch.zeros(0, 4))[0].tolist() == [0, 0, 0, 0]


def test_sampled_regions_hold_objects_first():
    truth = torch.tensor([[10.0, 10.0, 30.0, 30.0]])
    shifts = torch.linspace(0, 200, 300)[:, None]
    sampled = sample_regions(truth + shifts, truth, generator())
    assert len(sampled) == ROI_SAMPLES
    assert match(sampled, truth).iou[0] >= 0.5
    assert (match(sampled, truth).iou >= 0.5).sum() < ROI_SAMPLES / 2


def test_mask_targets_are_the_label_in_the_box():
    label_map = torch.zeros(64, 64, dtype=torch.uint8)
    label_map[10:24, 20:34] = 2
    label_map[24:38, 20:34] = 1
    targets = mask_targets(label_map, torch.tensor([2, 1]), torch.tensor([[20.0, 10.0, 48.0, 38.0]] * 2))
    expected = torch.zeros(2, 28, 28)
    expected[0, :14, :14] = 1
    expected[1, 14:, :14] = 1
    assert torch.equal(targets, expected)


def test_rpn_loss_is_zero_for_perfect_answers():
    truth = torch.tensor([[8.0, 8.0, 40.0, 40.0]])
    anchors = torch.tensor([[8.0, 10.0, 40.0, 42.0], [100.0, 100.0, 132.0, 132.0]])
    deltas = torch.zeros(1, 2, 4)
    deltas[0, 0] = encode(anchors[:1], truth, rpn.DELTA_WEIGHTS)[0]
    perfect = rpn.RpnOutput(anchors, torch.tensor([[30.0, -30.0]]), deltas, (2,))
    assert rpn_loss(perfect, [truth], generator()) == pytest.approx(0, abs=1e-6)
    wrong = rpn.RpnOutput(anchors, torch.tensor([[-30.0, -30.0]]), deltas, (2,))
    assert rpn_loss(wrong, [truth], generator()) > 0.1


def test_statistics_are_those_of_the_batches():
    torch.manual_seed(0)
    model = CascadeMaskRCNN(ARCHITECTURES["demo"])
    source = SceneSource([scene_set()])
    batch = source.draw(np.random.default_rng(0), 4)
    measure_statistics(model, [batch, batch])
    assert not model.training
    stem = model.backbone.bottom_up.stem.conv1
    raw = torch.nn.functional.conv2d(model.normalize(batch.images), stem.weight, stride=2, padding=3)
    torch.testing.assert_close(stem.norm.running_mean, raw.mean(dim=(0, 2, 3)), atol=1e-4, rtol=1e-4)
    assert stem.norm.momentum == pytest.approx(0.1)


@pytest.mark.slow
def test_loss_falls_on_one_batch():
    torch.manual_seed(0)
    model = CascadeMaskRCNN(ARCHITECTURES["demo"]).train()
    batch = SceneSource([scene_set()]).draw(np.random.default_rng(0), 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for step in range(120):
        loss = detection_loss(model, batch, generator(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:10])


@pytest.mark.slow
def test_training_is_deterministic(monkeypatch):
    for name in ("BATCH", "STATISTICS_BATCHES"):
        monkeypatch.setattr(f"pseudo_ris.lab.train_cutler.{name}", 2)
    first, again, other = (train_cutler([scene_set()], seed=seed, steps=3).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["backbone.fpn_output2.weight"], other["backbone.fpn_output2.weight"])


def test_an_image_without_objects_gives_a_finite_loss():
    torch.manual_seed(0)
    model = CascadeMaskRCNN(ARCHITECTURES["demo"]).train()
    empty = SimpleNamespace(images=np.zeros((2, 64, 64, 3), np.uint8), label_maps=np.zeros((2, 64, 64), np.uint8))
    loss = detection_loss(model, SceneSource([empty]).draw(np.random.default_rng(0), 2), generator())
    loss.backward()
    assert torch.isfinite(loss)
