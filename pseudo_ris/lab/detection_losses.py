"""Losses of Cascade Mask R-CNN as detectron2 defines them: matching, sampling and loss terms."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torchvision.ops import box_iou, roi_align

from pseudo_ris.lab.detection_batches import DetectionBatch
from pseudo_ris.models.cutler import rpn
from pseudo_ris.models.cutler.box_coding import clip, decode, encode, nonempty
from pseudo_ris.models.cutler.cascade_rcnn import CascadeMaskRCNN
from pseudo_ris.models.cutler.roi_heads import DELTA_WEIGHTS, MASK_CELLS, OBJECT

RPN_NEGATIVE, RPN_POSITIVE = 0.3, 0.7
RPN_SAMPLES, RPN_POSITIVE_SHARE = 128, 0.5
STAGE_IOUS = (0.5, 0.6, 0.7)
ROI_SAMPLES, ROI_POSITIVE_SHARE = 48, 0.4
MASK_ROIS = 6  # maximum per image
# The later stages measure deltas in smaller units and mostly see regions on objects; unweighted, their delta losses would
# dominate the class losses in a short training.
DELTA_LOSS_WEIGHT = 0.3
BACKGROUND = 1 - OBJECT


@dataclass(frozen=True)
class Match:
    """The object that each box overlaps most. iou: float32 [n], 0 without objects. index: int64 [n], index of the object."""

    iou: torch.Tensor
    index: torch.Tensor


def match(boxes: torch.Tensor, truth: torch.Tensor) -> Match:
    """Matches `boxes` [n, 4] with the objects' boxes `truth` [m, 4]; m may be 0."""
    if not len(truth):
        return Match(boxes.new_zeros(len(boxes)), torch.zeros(len(boxes), dtype=torch.int64))
    best = box_iou(truth, boxes).max(dim=0)
    return Match(best.values, best.indices)


def detection_loss(model: CascadeMaskRCNN, batch: DetectionBatch, generator: torch.Generator) -> torch.Tensor:
    """Returns the sum of all loss terms of a batch. `generator` samples anchors and regions."""
    size = (batch.images.shape[2], batch.images.shape[3])
    features = model.backbone(model.normalize(batch.images))
    output = model.proposal_generator(features)
    proposals = model.proposal_generator.propose(output, [size] * len(batch.images))
    regions = [
        sample_regions(torch.cat([found.boxes, truth]), truth, generator)
        for found, truth in zip(proposals, batch.boxes, strict=True)
    ]
    return (
        rpn_loss(output, batch.boxes, generator)
        + box_loss(model, features, regions, batch.boxes, size)
        + mask_loss(model, features, regions, batch)
    )


def rpn_loss(output: rpn.RpnOutput, truths: list[torch.Tensor], generator: torch.Generator) -> torch.Tensor:
    """Returns the loss of sampled anchors: cross-entropy of objectness, and L1 of the deltas of anchors on objects."""
    total = output.logits.new_zeros(())
    for logits, deltas, truth in zip(output.logits, output.deltas, truths, strict=True):
        labels, index = anchor_labels(output.anchors, truth)
        positive = _draw(labels == 1, int(RPN_SAMPLES * RPN_POSITIVE_SHARE), generator)
        negative = _draw(labels == 0, RPN_SAMPLES - len(positive), generator)
        chosen = torch.cat([positive, negative])
        wanted = (labels[chosen] == 1).float()
        total = total + F.binary_cross_entropy_with_logits(logits[chosen], wanted, reduction="sum")
        if len(positive):
            goal = encode(output.anchors[positive], truth[index[positive]], rpn.DELTA_WEIGHTS)
            total = total + (deltas[positive] - goal).abs().sum()
    return total / (RPN_SAMPLES * len(truths))


def anchor_labels(anchors: torch.Tensor, truth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the label of each anchor (1 object, 0 background, -1 ignored) and the object that it overlaps most.

    The best anchors of an object are labelled as object even if they overlap it little.
    """
    found = match(anchors, truth)
    labels = torch.full((len(anchors),), -1, device=anchors.device)
    labels[found.iou < RPN_NEGATIVE] = 0
    labels[found.iou >= RPN_POSITIVE] = 1
    if len(truth):
        overlap = box_iou(truth, anchors)
        best = overlap.max(dim=1, keepdim=True).values.clamp(min=1e-6)
        labels[(overlap >= best).any(dim=0)] = 1
    return labels, found.index


def sample_regions(boxes: torch.Tensor, truth: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Samples the proposals of an image for the heads [n, 4]: those on objects, up to their share, then background."""
    found = match(boxes, truth)
    positive = _draw(found.iou >= STAGE_IOUS[0], int(ROI_SAMPLES * ROI_POSITIVE_SHARE), generator)
    negative = _draw(found.iou < STAGE_IOUS[0], ROI_SAMPLES - len(positive), generator)
    return boxes[torch.cat([positive, negative])]


def box_loss(
    model: CascadeMaskRCNN,
    features: list[torch.Tensor],
    regions: list[torch.Tensor],
    truths: list[torch.Tensor],
    size: tuple[int, int],
) -> torch.Tensor:
    """Returns the class (cross-entropy) and delta (L1) losses of all stages; each refines the boxes of the previous one."""
    total = features[0].new_zeros((), dtype=torch.float32)
    for stage, (weights, threshold) in enumerate(zip(DELTA_WEIGHTS, STAGE_IOUS, strict=True)):
        logits, deltas = model.roi_heads.run_stage(stage, features, regions)
        boxes = torch.cat(regions)
        on_object, goals = _stage_goals(regions, truths, threshold)
        total = total + F.cross_entropy(logits, torch.where(on_object, OBJECT, BACKGROUND))
        goal = encode(boxes[on_object], goals[on_object], weights)
        total = total + DELTA_LOSS_WEIGHT * (deltas[on_object] - goal).abs().sum() / len(boxes)
        refined = clip(decode(boxes, deltas.detach(), weights), *size)
        parts = refined.split([len(part) for part in regions])
        regions = [part[nonempty(part)] for part in parts]
    return total


def mask_loss(
    model: CascadeMaskRCNN, features: list[torch.Tensor], regions: list[torch.Tensor], batch: DetectionBatch
) -> torch.Tensor:
    """Returns the pixel-wise cross-entropy of the masks, in the boxes of first-stage regions on objects."""
    boxes, goals = [], []
    for image, (part, truth) in enumerate(zip(regions, batch.boxes, strict=True)):
        found = match(part, truth)
        rows = torch.nonzero(found.iou >= STAGE_IOUS[0]).flatten()[:MASK_ROIS]
        boxes.append(part[rows])
        if len(rows):
            labels = batch.labels[image][found.index[rows]]
            goals.append(mask_targets(batch.label_maps[image], labels, part[rows]))
    if not goals:
        return features[0].new_zeros((), dtype=torch.float32)
    logits = model.roi_heads.mask_head(model.roi_heads.mask_pooler(features, boxes))
    return F.binary_cross_entropy_with_logits(logits, torch.cat(goals))


def mask_targets(label_map: torch.Tensor, labels: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Returns the masks of `labels` [n] within `boxes` [n, 4]: float32 [n, 28, 28], 0 or 1."""
    masks = (label_map[None] == labels[:, None, None]).float()[:, None]
    rows = torch.arange(len(boxes), dtype=torch.float32, device=boxes.device)[:, None]
    cut = roi_align(masks, torch.cat([rows, boxes], dim=1), 2 * MASK_CELLS, sampling_ratio=0, aligned=True)
    return (cut[:, 0] >= 0.5).float()


def _stage_goals(
    regions: list[torch.Tensor], truths: list[torch.Tensor], threshold: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns which regions lie on an object (bool [n]) and the box of that object (arbitrary for the others) [n, 4]."""
    on_object, goals = [], []
    for boxes, truth in zip(regions, truths, strict=True):
        found = match(boxes, truth)
        on_object.append(found.iou >= threshold)
        goals.append(truth[found.index] if len(truth) else boxes)
    return torch.cat(on_object), torch.cat(goals)


def _draw(wanted: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Draws at most `count` indices where `wanted` [n] is true, without replacement: int64. generator: on the CPU."""
    rows = torch.nonzero(wanted).flatten()
    return rows[torch.randperm(len(rows), generator=generator)[:count].to(rows.device)]
