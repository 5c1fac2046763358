"""Trains the embedded SAM on drawn scenes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from pseudo_ris.lab.fit import CPU, autocast, fit, one_ahead
from pseudo_ris.models.cutler.cascade_rcnn import CascadeMaskRCNN
from pseudo_ris.models.sam.segmenter import Sam, build_sam

if TYPE_CHECKING:
    from pseudo_ris.world.scene_set import SceneSet

STEPS = 2800
LEARNING_RATE = 1.5e-3
IMAGES_PER_STEP = 6
OBJECT_POINTS = 5
BACKGROUND_POINTS = 2
POINT_FOCUS = 2.0  # about a third of the initial attention goes to the nine image tokens around the point
UPSCALING = 4  # low-resolution mask pixels per side of an image token, fixed by segment_anything
SUBPIXELS = 3  # object maps have this many times the resolution of the low-resolution masks, before averaging
MIN_AREA = 60  # in subpixels; smaller objects get no prompt
SHARED_WEIGHT = 0.1  # weight of the mean over the three multimask outputs, so that all of them keep learning


@dataclass(frozen=True)
class Batch:
    """Images and point prompts of one step.

    images: float32 [b, 3, S, S] in 0..255, padded as SAM pads. inside: float32 [b, 1, S, S], 0 in the padding.
    points: float32 [b, p, 2], (x, y) in pixels of the input. targets: float32 [b, p, s, s], coverage of each low-resolution
    pixel by the prompted object; 0 for a point on the background.
    objects: uint8 [b, s, s], label of the object at each low-resolution pixel, 0 for background.
    """

    images: torch.Tensor
    inside: torch.Tensor
    points: torch.Tensor
    targets: torch.Tensor
    objects: torch.Tensor

    def to(self, device: torch.device) -> Batch:
        """Returns the batch on another device."""
        return Batch(*(getattr(self, field.name).to(device) for field in fields(self)))


def train_sam(
    scenes: Sequence[SceneSet],
    detector: CascadeMaskRCNN,
    seed: int,
    steps: int | None = None,
    device: torch.device = CPU,
) -> Sam:
    """Trains a SAM to segment the object under a point.

    Points on the background have no target mask; their predicted IoU goes to 0, so automatic mask generation drops them.
    scenes: sets of training scenes, sampled in proportion to their lengths. detector: the trained embedded CutLER; its feature
    pyramid initialises the image encoder. steps: None for the steps of the embedded weights.
    Returns the model on `device`, in eval mode.
    """
    torch.manual_seed(seed)
    model = build_sam("demo")
    _attend_to_positions(model)
    model.image_encoder.patch_embed.pyramid.load_state_dict(detector.backbone.state_dict())
    size, fine = model.image_encoder.img_size, model.prompt_encoder.mask_input_size[0] * SUBPIXELS
    probe = nn.Conv2d(model.prompt_encoder.embed_dim, 4 * UPSCALING**2, 1)
    both = nn.ModuleList([model, probe]).to(device)
    grid = [(scene_set, index) for scene_set in scenes for index in range(len(scene_set.images))]

    batch_of_step = one_ahead(lambda step: _draw_batch(grid, size, fine, np.random.default_rng([seed, step])))

    def loss_of_step(step: int) -> torch.Tensor:
        batch = batch_of_step(step).to(device)
        embeddings = _embed(model, batch)
        masks, quality = _prompt(model, embeddings, batch.points)
        return _prompt_loss(masks, quality, batch.targets.flatten(0, 1)[:, None]) + _probe_loss(
            F.pixel_shuffle(probe(embeddings), UPSCALING), batch.objects
        )

    fit(both, loss_of_step, name="SAM", steps=STEPS if steps is None else steps, learning_rate=LEARNING_RATE)
    return model


@torch.no_grad()
def _attend_to_positions(model: Sam) -> None:
    """Initialises the attention between tokens and image so that it compares positions.

    Queries and keys get the same projection, and the terms added to positions start small, so a point's token and the image
    around the point attend to each other from the first step. With independent projections the decoder predicts empty masks
    for hundreds of steps.
    """
    model.image_encoder.neck[-1].weight.fill_(0.5)
    model.prompt_encoder.point_embeddings[1].weight.mul_(0.1)
    transformer = model.mask_decoder.transformer
    attentions = [transformer.final_attn_token_to_image]
    for layer in transformer.layers:
        attentions += [layer.cross_attn_token_to_image, layer.cross_attn_image_to_token]
    for attention in attentions:
        nn.init.orthogonal_(attention.q_proj.weight, gain=POINT_FOCUS)
        attention.k_proj.weight.copy_(attention.q_proj.weight)


def _embed(model: Sam, batch: Batch) -> torch.Tensor:
    """Returns image embeddings, float32 [b, c, s / 4, s / 4]."""
    normalised = (batch.images - model.pixel_mean) / model.pixel_std * batch.inside
    with autocast(batch.images.device):
        return model.image_encoder(normalised).float()


def _prompt(model: Sam, embeddings: torch.Tensor, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns logits [b p, 4, s, s] and predicted IoU [b p, 4] of the single mask and the three multimask outputs."""
    label = torch.ones(points.shape[1], 1, device=points.device)
    masks, quality = [], []
    for embedding, image_points in zip(embeddings, points, strict=True):
        sparse, dense = model.prompt_encoder((image_points[:, None], label), None, None)
        mask, predicted_iou = model.mask_decoder.predict_masks(
            image_embeddings=embedding[None],
            image_pe=model.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
        )
        masks.append(mask)
        quality.append(predicted_iou)
    return torch.cat(masks), torch.cat(quality)


def _prompt_loss(masks: torch.Tensor, quality: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Returns the mask loss of points on objects plus the IoU loss of all points. targets: [b p, 1, s, s]."""
    quality_loss = F.mse_loss(quality, _iou(masks, targets))
    is_object = targets.flatten(1).any(1)
    if not is_object.any():
        return quality_loss
    mask_losses = _mask_losses(masks[is_object], targets[is_object])
    single, several = mask_losses[:, 0], mask_losses[:, 1:]
    fitting = single + (1 - SHARED_WEIGHT) * several.min(1).values + SHARED_WEIGHT * several.mean(1)
    return fitting.mean() + quality_loss


def _probe_loss(predictions: torch.Tensor, objects: torch.Tensor) -> torch.Tensor:
    """Returns the loss of a linear probe of the embeddings, which predicts objects, their borders and offsets to their centres.

    This dense signal trains the image encoder much faster than prompts alone; the probe is discarded after training.
    predictions: [b, 4, s, s], logits of object and border, and x and y offset to the object's centre in quarters of the image.
    objects: uint8 [b, s, s], labels.
    """
    is_object = (objects > 0).float()
    labels = objects.float()[:, None]
    border = (F.max_pool2d(labels, 3, 1, 1) != -F.max_pool2d(-labels, 3, 1, 1)).float()[:, 0]
    offsets = _centre_offsets(objects)
    return (
        F.binary_cross_entropy_with_logits(predictions[:, 0], is_object)
        + F.binary_cross_entropy_with_logits(predictions[:, 1], border)
        + ((predictions[:, 2:] - offsets).abs().sum(1) * is_object).mean()
    )


def _centre_offsets(objects: torch.Tensor) -> torch.Tensor:
    """Returns the offset from each pixel to the centroid of its label, in quarters of the image: float32 [b, 2, s, s]."""
    count, side = objects.shape[0], objects.shape[1]
    index = (objects.long() + 256 * torch.arange(count, device=objects.device)[:, None, None]).flatten()
    ys, xs = torch.meshgrid(2 * [torch.arange(side, device=objects.device)], indexing="ij")
    places = torch.stack([xs, ys]).float() / (side / 4)
    members = torch.bincount(index, minlength=256 * count).clamp(min=1)
    centres = [
        (torch.bincount(index, place.repeat(count, 1, 1).flatten(), minlength=256 * count) / members)[index] for place in places
    ]
    return torch.stack(centres, 1).view(count, side, side, 2).permute(0, 3, 1, 2).float() - places


def _mask_losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Returns focal plus dice loss, [n, k], of logits [n, k, s, s] and coverages [n, 1, s, s].

    The focal loss (cross-entropy x squared error) is summed and divided by the object's area, so that small objects count as
    much as large ones. For an object of a twentieth of the image this equals Segment Anything's weighting of 20 : 1.
    """
    probabilities = logits.sigmoid()
    entropy = F.softplus(logits) - logits * targets
    areas = targets.sum((2, 3))
    focal = (entropy * (targets - probabilities) ** 2).sum((2, 3)) / (areas + 1)
    overlap = (probabilities * targets).sum((2, 3))
    dice = 1 - (2 * overlap + 1) / (probabilities.sum((2, 3)) + areas + 1)
    return focal + dice


@torch.no_grad()
def _iou(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Returns the IoU of the thresholded masks, [n, k]; 0 without an object."""
    drawn, wanted = logits > 0, targets > 0.5
    union = (drawn | wanted).sum((2, 3))
    return (drawn & wanted).sum((2, 3)) / union.clamp(min=1)


def _draw_batch(grid: list[tuple[SceneSet, int]], size: int, fine: int, rng: np.random.Generator) -> Batch:
    parts = []
    for pick in rng.integers(len(grid), size=IMAGES_PER_STEP):
        scene_set, index = grid[pick]
        parts.append(_draw_sample(scene_set.images[index], scene_set.label_maps[index], size, fine, rng))
    return Batch(*(torch.stack(part) for part in zip(*parts, strict=True)))


def _draw_sample(
    image: np.ndarray, labels: np.ndarray, size: int, fine: int, rng: np.random.Generator
) -> tuple[torch.Tensor, ...]:
    """Draws the five fields of `Batch` for one image."""
    image, labels = _random_window(image, labels, rng)
    height, width = labels.shape
    scale = 1 / max(height, width)
    shape = tuple(max(1, round(side * scale * size)) for side in (height, width))
    fine_shape = tuple(max(1, round(side * scale * fine)) for side in (height, width))
    canvas = np.zeros((size, size, 3), np.float32)
    canvas[: shape[0], : shape[1]] = cv2.resize(
        _random_look(image, rng), shape[::-1], interpolation=cv2.INTER_AREA if scale * size < 1 else cv2.INTER_LINEAR
    )
    inside = torch.zeros(1, size, size)
    inside[:, : shape[0], : shape[1]] = 1
    drawn = np.zeros((fine, fine), np.uint8)
    drawn[: fine_shape[0], : fine_shape[1]] = cv2.resize(labels, fine_shape[::-1], interpolation=cv2.INTER_NEAREST)
    points, targets = _draw_prompts(drawn, fine_shape, rng)
    middle = SUBPIXELS // 2
    objects = torch.from_numpy(drawn[middle::SUBPIXELS, middle::SUBPIXELS].copy())
    return torch.from_numpy(canvas).permute(2, 0, 1), inside, points * (size / fine), targets, objects


def _draw_prompts(drawn: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws points [p, 2], in fine pixels, uniformly over objects and their pixels, with the objects' coverages [p, s, s]."""
    areas = np.bincount(drawn[: shape[0], : shape[1]].ravel(), minlength=2)
    present = 1 + np.flatnonzero(areas[1:] >= MIN_AREA)
    background = BACKGROUND_POINTS if areas[0] else 0
    wanted = np.zeros(OBJECT_POINTS + BACKGROUND_POINTS, np.int64)
    if len(present):
        wanted[background:] = rng.permutation(np.resize(rng.permutation(present), len(wanted) - background))
    points = np.zeros((len(wanted), 2), np.float32)
    coverage = {0: torch.zeros(drawn.shape[0] // SUBPIXELS, drawn.shape[1] // SUBPIXELS)}
    for row, label in enumerate(wanted):
        region = drawn[: shape[0], : shape[1]] == label
        ys, xs = np.nonzero(region)
        if not len(ys):
            continue
        pick = rng.integers(len(ys))
        points[row] = xs[pick], ys[pick]
        if label not in coverage:
            mask = torch.from_numpy((drawn == label).astype(np.float32))
            coverage[label] = F.avg_pool2d(mask[None], SUBPIXELS)[0]
    return torch.from_numpy(points), torch.stack([coverage[label] for label in wanted])


def _random_window(image: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Returns the scene, in a third of the cases a random crop of it, randomly flipped and transposed."""
    if rng.random() < 1 / 3:
        height, width = (int(side * rng.uniform(0.45, 1.0)) for side in labels.shape)
        top, left = rng.integers(labels.shape[0] - height + 1), rng.integers(labels.shape[1] - width + 1)
        image, labels = image[top : top + height, left : left + width], labels[top : top + height, left : left + width]
    if rng.random() < 0.5:
        image, labels = image[:, ::-1], labels[:, ::-1]
    if rng.random() < 0.5:
        image, labels = image[::-1], labels[::-1]
    if rng.random() < 0.5:
        image, labels = image.transpose(1, 0, 2), labels.T
    return np.ascontiguousarray(image), np.ascontiguousarray(labels)


def _random_look(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns the image, float32 in 0..255, in half of the cases with other light and camera effects."""
    look = image.astype(np.float32)
    if rng.random() < 0.5:  # drawn scenes already vary in light and camera
        return look
    if rng.random() < 0.15:
        look = np.repeat(look.mean(2, keepdims=True), 3, axis=2)
    elif rng.random() < 0.5:
        look = look @ (np.eye(3) + rng.uniform(-0.25, 0.25, (3, 3))).astype(np.float32)
    if rng.random() < 0.7:
        look = (look - 128) * np.float32(rng.uniform(0.4, 1.3)) + np.float32(128 + rng.uniform(-50, 50))
    if rng.random() < 0.3:
        light = rng.uniform(0.6, 1.3, (3, 3)).astype(np.float32)
        look = look * cv2.resize(light, look.shape[1::-1], interpolation=cv2.INTER_CUBIC)[..., None]
    if rng.random() < 0.3:
        look = cv2.GaussianBlur(look, (0, 0), rng.uniform(0.4, 1.3))
    if rng.random() < 0.4:
        look = look + rng.standard_normal(look.shape, np.float32) * np.float32(rng.uniform(2, 14))
    return look.clip(0, 255)
