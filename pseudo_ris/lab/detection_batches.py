"""Training batches of the embedded CutLER: drawn scenes, augmented so that the model also transfers to photographs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from pseudo_ris.world.scene_set import SceneSet

MIN_VISIBLE_PIXELS = 40  # objects with fewer visible pixels are ignored
UNMOVED_SHARE = 0.45
UNCOLOURED_SHARE = 0.35
GREY_SHARE = 0.1
BLUR_SHARE = 0.25
NOISE_SHARE = 0.3
WINDOW = (0.4, 1.3)  # side length of the visible window, relative to the scene
GREY_WEIGHTS = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class DetectionBatch:
    """A batch of scenes.

    images: float32 [b, 3, h, w] in 0..255. label_maps: uint8 [b, h, w], 0 for background, otherwise the object's label.
    boxes: float32 [n, 4] per image, tight, xyxy, half-open. labels: uint8 [n] per image, in the order of the boxes.
    """

    images: torch.Tensor
    label_maps: torch.Tensor
    boxes: list[torch.Tensor]
    labels: list[torch.Tensor]

    def to(self, device: torch.device) -> DetectionBatch:
        """Returns the batch on another device."""
        boxes, labels = ([tensor.to(device) for tensor in group] for group in (self.boxes, self.labels))
        return DetectionBatch(self.images.to(device), self.label_maps.to(device), boxes, labels)


class SceneSource:
    """Draws batches from the scenes of all sets uniformly."""

    def __init__(self, scenes: Sequence[SceneSet]) -> None:
        self.places = [(scene_set, index) for scene_set in scenes for index in range(len(scene_set.images))]

    def draw(self, rng: np.random.Generator, count: int) -> DetectionBatch:
        """Draws and augments `count` scenes, with `rng` as the only source of randomness."""
        chosen = [self.places[int(index)] for index in rng.integers(len(self.places), size=count)]
        images = torch.from_numpy(np.stack([scenes.images[index] for scenes, index in chosen]))
        labels = torch.from_numpy(np.stack([scenes.label_maps[index] for scenes, index in chosen]))
        images, labels = move(images.permute(0, 3, 1, 2).float(), labels, rng)
        images = degrade(recolour(images, rng), rng)
        found = [objects_of(label_map) for label_map in labels.numpy()]
        return DetectionBatch(
            images=images,
            label_maps=labels,
            boxes=[torch.from_numpy(boxes) for boxes, _ in found],
            labels=[torch.from_numpy(values) for _, values in found],
        )


def objects_of(label_map: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns tight boxes (float32 [n, 4]) and labels (uint8 [n]) of the objects with enough visible pixels."""
    labels = np.flatnonzero(np.bincount(label_map.ravel())[1:] >= MIN_VISIBLE_PIXELS) + 1
    boxes = np.zeros((len(labels), 4), np.float32)
    for row, label in enumerate(labels):
        mask = label_map == label
        y, x = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        boxes[row] = x[0], y[0], x[-1] + 1, y[-1] + 1
    return boxes, labels.astype(np.uint8)


def move(images: torch.Tensor, labels: torch.Tensor, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Crops or extends each scene to a random window and flips half of them; the border continues as background."""
    count = len(images)
    size = np.exp(rng.uniform(*np.log(WINDOW), count))
    aspect = np.exp(rng.uniform(-0.2, 0.2, count))
    moved = rng.random(count) >= UNMOVED_SHARE
    width, height = np.where(moved, size * aspect, 1.0), np.where(moved, size / aspect, 1.0)
    theta = np.zeros((count, 2, 3), np.float32)
    theta[:, 0, 0] = width * rng.choice([-1, 1], count)
    theta[:, 1, 1] = height
    theta[:, 0, 2] = rng.uniform(-1, 1, count) * np.abs(1 - width)
    theta[:, 1, 2] = rng.uniform(-1, 1, count) * np.abs(1 - height)
    grid = F.affine_grid(torch.from_numpy(theta), list(images.shape), align_corners=False)
    shown = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    values = F.grid_sample(labels[:, None].float(), grid, mode="nearest", align_corners=False)
    return shown, values[:, 0].to(torch.uint8)


def recolour(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Randomly changes brightness, contrast, saturation and white balance; some images become grey."""
    count = len(images)
    changed = rng.random(count) >= UNCOLOURED_SHARE
    saturation = np.where(rng.random(count) < GREY_SHARE, 0.0, rng.uniform(0.3, 1.4, count))
    contrast, brightness = np.exp(rng.uniform(-0.5, 0.4, count)), rng.uniform(-35, 35, count)
    balance = np.exp(rng.uniform(-0.2, 0.2, (count, 3)))
    grey = torch.einsum("bchw,c->bhw", images, torch.tensor(GREY_WEIGHTS))[:, None]
    result = grey + _column(saturation) * (images - grey)
    mean = result.mean(dim=(1, 2, 3), keepdim=True)
    result = (result - mean) * _column(contrast) + mean + _column(brightness)
    result = result * torch.from_numpy(balance).float()[:, :, None, None]
    return torch.where(_column(changed) > 0, result.clamp(0, 255), images)


def degrade(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Blurs some images slightly, adds noise to some, and rounds to integers as image files do."""
    count = len(images)
    blurred = torch.from_numpy(np.flatnonzero(rng.random(count) < BLUR_SHARE))
    padded = F.pad(images[blurred], (1, 1, 1, 1), mode="replicate")
    images = images.index_copy(0, blurred, F.avg_pool2d(padded, 3, stride=1))
    strength = np.where(rng.random(count) < NOISE_SHARE, rng.uniform(0, 12, count), 0.0)
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    noise = torch.randn(images.shape, generator=generator)
    return (images + _column(strength) * noise).round().clamp(0, 255)


def _column(values: np.ndarray) -> torch.Tensor:
    """[b] -> float32 [b, 1, 1, 1]."""
    return torch.from_numpy(np.asarray(values, np.float32))[:, None, None, None]
