"""Training data of the embedded CoCa and CLIP: crops of drawn objects, and the texts that are true of each object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from pseudo_ris.captions.crops import cut_crop
from pseudo_ris.config import CropConfig
from pseudo_ris.world.grammar import parse
from pseudo_ris.world.scene_set import SceneSet
from pseudo_ris.world.scenes import SceneObject

# How stage 1's masks differ from the objects: their edge is a little off, they take in parts of the objects beside them, or
# they miss a part. Where they take in 2 to 10% of other objects, a captioner trained on nearly exact masks named 61% of the
# objects rightly, elsewhere 97% (250 drawn validation scenes).
MASK_ERRORS = {"none": 0.25, "edge": 0.3, "spill": 0.3, "cut": 0.15}
EDGE_ERRORS = {"none": 0.4, "edge": 0.6}
"""Kinds of errors of masks and their shares: MASK_ERRORS as stage 1 makes them; EDGE_ERRORS of nearly exact masks."""
MAX_EDGE_ERROR = 2
MAX_SPILL = 12
MAX_CUT = 0.35


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

    def __init__(self, scenes: SceneSet, size: int, errors: Mapping[str, float] = MASK_ERRORS) -> None:
        """size: side length of the crops in pixels. errors: kinds of errors of the masks, and their shares."""
        self.scenes = scenes
        self.size = size
        self.errors = errors
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
        labels = self.scenes.label_maps[target.scene]
        own = labels == target.label
        mask = disturb_mask(own, (labels > 0) & ~own, self.errors, rng)
        crop = cut_crop(self.scenes.images[target.scene], mask, crop_set, self.size, CropConfig())
        return crop.flip(2) if rng.random() < 0.5 else crop


def disturb_mask(mask: np.ndarray, others: np.ndarray, errors: Mapping[str, float], rng: np.random.Generator) -> np.ndarray:
    """Returns a wrong mask; never empty. The mask of an object that touches no other does not spill.

    mask: bool [H, W], not empty. others: bool [H, W], the other objects. errors: see MASK_ERRORS.
    """
    error = rng.choice(list(errors), p=list(errors.values()))
    if error == "spill":
        mask = mask | (others & _resized(mask, int(rng.integers(2, MAX_SPILL + 1))))
    elif error == "cut":
        mask = _cut(mask, rng.uniform(0, 2 * np.pi), rng.uniform(0, MAX_CUT))
    if error == "none":
        return mask
    changed = _resized(mask, int(rng.integers(-MAX_EDGE_ERROR, MAX_EDGE_ERROR + 1)))
    return changed if changed.any() else mask


def _resized(mask: np.ndarray, pixels: int) -> np.ndarray:
    """Returns the mask dilated by `pixels`, or eroded where they are negative."""
    radius = abs(pixels)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return (cv2.dilate if pixels > 0 else cv2.erode)(mask.astype(np.uint8), kernel).astype(bool)


def _cut(mask: np.ndarray, angle: float, part: float) -> np.ndarray:
    """Returns the mask without the `part` of its pixels that is farthest in the direction of `angle`."""
    y, x = mask.nonzero()
    along = x * np.cos(angle) + y * np.sin(angle)
    kept = along <= np.quantile(along, 1 - part)
    left = np.zeros_like(mask)
    left[y[kept], x[kept]] = True
    return left


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
