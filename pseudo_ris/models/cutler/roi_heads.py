"""Heads that work on regions: three cascaded box stages (Cascade R-CNN) and a mask head.

Semantics and tensor names are detectron2's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import nms, roi_align

from pseudo_ris.models.cutler.box_coding import clip, decode, nonempty
from pseudo_ris.models.cutler.resnet_fpn import LEVELS, STRIDES

DELTA_WEIGHTS = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))  # of the three stages
BOX_CELLS = 7
MASK_CELLS = 14
CANONICAL_LEVEL = 4
NMS_THRESHOLD = 0.5
MAX_DETECTIONS = 100
OBJECT = 0  # column of the class scores; 1 is background


@dataclass(frozen=True, eq=False)
class Detections:
    """Objects found in one image, best first, in pixels of the resized image.

    boxes: float32 [n, 4]. scores: float32 [n]. masks: float32 [n, 28, 28], probabilities in the frame of the box.
    """

    boxes: torch.Tensor
    scores: torch.Tensor
    masks: torch.Tensor


class RoiPooler:
    """Cuts regions out of the pyramid level that suits their size (FPN, eq. 1).

    cells: side of the output grid. canonical_size: boxes of this size (square root of the area) are cut from p4.
    """

    def __init__(self, cells: int, canonical_size: float) -> None:
        self.cells = cells
        self.canonical_size = canonical_size

    def __call__(self, features: list[torch.Tensor], boxes: list[torch.Tensor]) -> torch.Tensor:
        """p2 ..., each [b, c, h, w], and boxes [n_i, 4] of each image -> float32 [sum n_i, c, cells, cells]."""
        flat = torch.cat(boxes)
        image = torch.cat([b.new_full((len(b), 1), i) for i, b in enumerate(boxes)])
        regions = torch.cat([image, flat], dim=1)
        level = self.levels(flat)
        pooled = features[0].new_zeros((len(flat), features[0].shape[1], self.cells, self.cells), dtype=torch.float32)
        for index, (maps, stride) in enumerate(zip(features[: len(LEVELS)], STRIDES, strict=False)):
            rows = torch.nonzero(level == index).flatten()
            if len(rows):
                cut = roi_align(maps.float(), regions[rows], self.cells, 1 / stride, sampling_ratio=0, aligned=True)
                pooled = pooled.index_put((rows,), cut)
        return pooled

    def levels(self, boxes: torch.Tensor) -> torch.Tensor:
        """Index into p2 ... p5 for each of `boxes` [n, 4]: int64 [n]."""
        size = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
        level = torch.floor(CANONICAL_LEVEL + torch.log2(size / self.canonical_size + 1e-8))
        return level.clamp(LEVELS[0], LEVELS[-1]).long() - LEVELS[0]


class BoxHead(nn.Module):
    """Two fully connected layers: [n, channels, 7, 7] -> [n, width]."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels * BOX_CELLS**2, width)
        self.fc2 = nn.Linear(width, width)
        for layer in (self.fc1, self.fc2):
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)

    def forward(self, regions: torch.Tensor) -> torch.Tensor:
        return F.relu(self.fc2(F.relu(self.fc1(regions.flatten(1)))))


class BoxPredictor(nn.Module):
    """[n, width] -> class logits [n, 2] (object, background) and box deltas [n, 4]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(width, 2)
        self.bbox_pred = nn.Linear(width, 4)
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        for layer in (self.cls_score, self.bbox_pred):
            nn.init.zeros_(layer.bias)

    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.cls_score(hidden).float(), self.bbox_pred(hidden).float()


class MaskHead(nn.Module):
    """Convolutions, then a deconvolution to twice the size: [n, channels, 14, 14] -> mask logits [n, 28, 28]."""

    def __init__(self, channels: int, width: int, convolutions: int) -> None:
        super().__init__()
        self.convolutions = [f"mask_fcn{index + 1}" for index in range(convolutions)]
        for index, name in enumerate(self.convolutions):
            setattr(self, name, nn.Conv2d(width if index else channels, width, 3, padding=1))
        self.deconv = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.predictor = nn.Conv2d(width, 1, 1)
        for layer in self.children():
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        nn.init.normal_(self.predictor.weight, std=0.001)

    def forward(self, regions: torch.Tensor) -> torch.Tensor:
        for name in self.convolutions:
            regions = F.relu(getattr(self, name)(regions))
        return self.predictor(F.relu(self.deconv(regions))).float().squeeze(1)


class CascadeHeads(nn.Module):
    """Three box stages, each starting from the boxes of the one before, then masks at the final boxes."""

    def __init__(self, channels: int, fc_width: int, mask_width: int, mask_convolutions: int, canonical_size: float) -> None:
        super().__init__()
        self.box_head = nn.ModuleList(BoxHead(channels, fc_width) for _ in DELTA_WEIGHTS)
        self.box_predictor = nn.ModuleList(BoxPredictor(fc_width) for _ in DELTA_WEIGHTS)
        self.mask_head = MaskHead(channels, mask_width, mask_convolutions)
        self.box_pooler = RoiPooler(BOX_CELLS, canonical_size)
        self.mask_pooler = RoiPooler(MASK_CELLS, canonical_size)

    def run_stage(
        self, stage: int, features: list[torch.Tensor], boxes: list[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Class logits [sum n_i, 2] and deltas [sum n_i, 4] for boxes [n_i, 4] of each image."""
        return self.box_predictor[stage](self.box_head[stage](self.box_pooler(features, boxes)))

    def detect(
        self, features: list[torch.Tensor], proposals: torch.Tensor, size: tuple[int, int], score_threshold: float
    ) -> Detections:
        """Detections of one image (batch of 1) from proposals [n, 4]; `size`: its height and width without padding."""
        boxes, scores = self.refine(features, proposals, size)
        boxes = clip(boxes, *size)
        valid = boxes.isfinite().all(dim=1) & scores.isfinite() & (scores >= score_threshold)
        boxes, scores = boxes[valid], scores[valid]
        kept = nms(boxes, scores, NMS_THRESHOLD)[:MAX_DETECTIONS]
        boxes, scores = boxes[kept], scores[kept]
        regions = self.mask_pooler(features, [boxes])
        return Detections(boxes, scores, self.mask_head(regions).sigmoid())

    def refine(
        self, features: list[torch.Tensor], boxes: torch.Tensor, size: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Boxes [n, 4] after the last stage, and the object probability averaged over the stages [n]."""
        scores = boxes.new_zeros(len(boxes))
        for stage, weights in enumerate(DELTA_WEIGHTS):
            boxes = clip(boxes, *size)
            logits, deltas = self.run_stage(stage, features, [boxes])
            scores = scores + logits.softmax(dim=1)[:, OBJECT] / len(DELTA_WEIGHTS)
            boxes = decode(boxes, deltas, weights)
        return boxes, scores


def keep_nonempty(detections: Detections, boxes: torch.Tensor) -> Detections:
    """`detections` with `boxes` for its boxes, without those that have no width or no height."""
    kept = nonempty(boxes)
    return Detections(boxes[kept], detections.scores[kept], detections.masks[kept])
