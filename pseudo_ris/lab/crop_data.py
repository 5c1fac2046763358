"""Training data of the embedded CoCa and CLIP: crops of drawn objects, and which texts are true of which object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from pseudo_ris.captions.crops import cut_crop
from pseudo_ris.config import CropConfig
from pseudo_ris.world.grammar import parse
from pseudo_ris.world.scene_set import SceneSet
from pseudo_ris.world.scenes import SceneObject

# Fraction of masks that stay exact; the others are dilated or eroded by up to MAX_MASK_NOISE pixels.
EXACT_MASKS = 0.4
MAX_MASK_NOISE = 2


@dataclass(frozen=True)
class Target:
    """An object to crop: number of its scene, its label in the label map, and its attributes."""

    scene: int
    label: int
    attributes: SceneObject


class CropSource:
    """Cuts augmented crops of all objects with a category in a scene set.

    Crops are not cached: cutting one takes about 0.2 ms, a small part of a training step.
    """

    def __init__(self, scenes: SceneSet, size: int) -> None:
        """size: side length of the crops in pixels."""
        self.scenes = scenes
        self.size = size
        self.targets_of_scene = [_targets(scenes, number) for number in range(len(scenes.images))]

    def draw_scenes(self, rng: np.random.Generator, count: int) -> list[Target]:
        """Returns `count` targets from scenes drawn without replacement, so that look-alikes of a scene are in one batch."""
        targets: list[Target] = []
        for number in rng.permutation(len(self.targets_of_scene)):
            targets += self.targets_of_scene[number]
            if len(targets) >= count:
                return targets[:count]
        return targets

    def cut(self, targets: Sequence[Target], crop_sets: Sequence[str], rng: np.random.Generator) -> torch.Tensor:
        """Returns one normalised crop per target, each in its own crop set: float32 [n, 3, size, size]."""
        return torch.stack([self._cut_one(target, crop_set, rng) for target, crop_set in zip(targets, crop_sets, strict=True)])

    def _cut_one(self, target: Target, crop_set: str, rng: np.random.Generator) -> torch.Tensor:
        """Cuts a crop with a slightly wrong mask; mirrors half of the crops, since no caption tells left from right."""
        mask = disturb_mask(self.scenes.label_maps[target.scene] == target.label, rng)
        crop = cut_crop(self.scenes.images[target.scene], mask, crop_set, self.size, CropConfig())
        return crop.flip(2) if rng.random() < 0.5 else crop


def disturb_mask(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns the mask exact, or dilated or eroded by 1 to MAX_MASK_NOISE pixels; never empty. mask: bool [H, W], not empty."""
    if rng.random() < EXACT_MASKS:
        return mask
    radius = int(rng.integers(1, MAX_MASK_NOISE + 1))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    operation = cv2.dilate if rng.random() < 0.5 else cv2.erode
    disturbed = operation(mask.astype(np.uint8), kernel).astype(bool)
    return disturbed if disturbed.any() else mask


def truth_matrix(texts: Sequence[str], targets: Sequence[Target]) -> torch.Tensor:
    """Returns which text is true of which target (see grammar.is_true), vectorised: bool [texts, targets]."""
    said = [parse(text) for text in texts]
    truth = np.tile(np.array([expression is not None for expression in said])[:, None], len(targets))
    for word in ("category", "size", "colour", "pattern"):
        claimed = np.array([getattr(expression, word, None) or "" for expression in said])[:, None]
        actual = np.array([getattr(target.attributes, word) for target in targets])
        truth &= (claimed == "") | (claimed == actual)
    return torch.from_numpy(truth)


def _targets(scenes: SceneSet, number: int) -> list[Target]:
    return [
        Target(number, label, attributes)
        for label, attributes in enumerate(scenes.objects[number], start=1)
        if attributes.category
    ]
