"""Training batches of the demo CoCa and CLIP: crops of drawn objects, cut as they are at use, with what is true of them."""

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

# Share of masks that are left exact; the others are dilated or eroded by up to MAX_MASK_NOISE pixels.
EXACT_MASKS = 0.4
MAX_MASK_NOISE = 2


@dataclass(frozen=True)
class Target:
    """One object to cut: scene number, label in the scene's label map, and its attributes."""

    scene: int
    label: int
    attributes: SceneObject


class CropSource:
    """All objects of a scene set that have words; cuts augmented crops of them.

    Crops are cut afresh each time: that takes about 0.2 ms, a small part of a training step, and no memory.
    """

    def __init__(self, scenes: SceneSet, size: int) -> None:
        """size: side of the crops in pixels."""
        self.scenes = scenes
        self.size = size
        self.targets_of_scene = [_targets(scenes, number) for number in range(len(scenes.images))]

    def draw_scenes(self, rng: np.random.Generator, count: int) -> list[Target]:
        """The first `count` targets of scenes drawn without replacement: neighbours, so often look-alikes, stay together."""
        targets: list[Target] = []
        for number in rng.permutation(len(self.targets_of_scene)):
            targets += self.targets_of_scene[number]
            if len(targets) >= count:
                return targets[:count]
        return targets

    def cut(self, targets: Sequence[Target], crop_sets: Sequence[str], rng: np.random.Generator) -> torch.Tensor:
        """One crop of each target, in the crop set of the same place. Returns float32 [n, 3, size, size], normalised."""
        return torch.stack([self._cut_one(target, crop_set, rng) for target, crop_set in zip(targets, crop_sets, strict=True)])

    def _cut_one(self, target: Target, crop_set: str, rng: np.random.Generator) -> torch.Tensor:
        """The crop that a slightly wrong mask gives, mirrored half of the time: no caption tells left from right."""
        mask = disturb_mask(self.scenes.label_maps[target.scene] == target.label, rng)
        crop = cut_crop(self.scenes.images[target.scene], mask, crop_set, self.size, CropConfig())
        return crop.flip(2) if rng.random() < 0.5 else crop


def disturb_mask(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`mask` as a model might predict it: exact, or dilated or eroded by 1 to MAX_MASK_NOISE pixels; never empty.

    mask: bool [H, W], not empty.
    """
    if rng.random() < EXACT_MASKS:
        return mask
    radius = int(rng.integers(1, MAX_MASK_NOISE + 1))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    operation = cv2.dilate if rng.random() < 0.5 else cv2.erode
    disturbed = operation(mask.astype(np.uint8), kernel).astype(bool)
    return disturbed if disturbed.any() else mask


def truth_matrix(texts: Sequence[str], targets: Sequence[Target]) -> torch.Tensor:
    """Which text is true of which target, as `grammar.is_true` says but all at once. Returns bool [texts, targets]."""
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
