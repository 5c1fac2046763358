"""Region proposal network (Faster R-CNN, sec. 3.1) over a feature pyramid.

Semantics and tensor names are detectron2's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import batched_nms

from pseudo_ris.models.cutler.box_coding import ASPECT_RATIOS, cell_anchors, clip, decode, grid_anchors, nonempty
from pseudo_ris.models.cutler.resnet_fpn import STRIDES

NMS_THRESHOLD = 0.65  # CutLER's
DELTA_WEIGHTS = (1.0, 1.0, 1.0, 1.0)


@dataclass(frozen=True, eq=False)
class RpnOutput:
    """What the network says of every anchor of a batch, anchors of p2 ... p6 one after the other.

    anchors: float32 [n, 4]. logits: float32 [b, n]. deltas: float32 [b, n, 4]. counts: anchors per level.
    """

    anchors: torch.Tensor
    logits: torch.Tensor
    deltas: torch.Tensor
    counts: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Proposals:
    """Boxes of one image that may hold an object, best first. boxes: float32 [n, 4]; logits: float32 [n]."""

    boxes: torch.Tensor
    logits: torch.Tensor


class RpnHead(nn.Module):
    """One hidden layer shared by all levels, then objectness and deltas per anchor."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.objectness_logits = nn.Conv2d(channels, len(ASPECT_RATIOS), 1)
        self.anchor_deltas = nn.Conv2d(channels, 4 * len(ASPECT_RATIOS), 1)
        for layer in self.children():
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[b, channels, h, w] -> logits [b, h * w * anchors], deltas [b, h * w * anchors, 4]."""
        hidden = F.relu(self.conv(features))
        logits = self.objectness_logits(hidden).permute(0, 2, 3, 1).flatten(1)
        deltas = self.anchor_deltas(hidden).permute(0, 2, 3, 1)
        return logits.float(), deltas.reshape(len(deltas), -1, 4).float()


class ProposalGenerator(nn.Module):
    """`rpn_head` over all levels, and the choice of proposals.

    Args:
        channels: of the pyramid.
        anchor_sizes: square root of the anchors' area, for p2 ... p6.
        per_level: the best anchors of each level that enter non-maximum suppression ...
        total: ... and the proposals of all levels together that leave it.
    """

    def __init__(self, channels: int, anchor_sizes: tuple[int, ...], per_level: int, total: int) -> None:
        super().__init__()
        self.rpn_head = RpnHead(channels)
        self.anchor_sizes = anchor_sizes
        self.per_level = per_level
        self.total = total

    def forward(self, features: list[torch.Tensor]) -> RpnOutput:
        """p2 ... p6, each [b, channels, h, w] -> all anchors with their scores and deltas."""
        scored = [self.rpn_head(level) for level in features]
        anchors = [
            grid_anchors(cell_anchors(size).to(level.device), level.shape[2], level.shape[3], stride)
            for size, level, stride in zip(self.anchor_sizes, features, STRIDES, strict=True)
        ]
        return RpnOutput(
            anchors=torch.cat(anchors),
            logits=torch.cat([logits for logits, _ in scored], dim=1),
            deltas=torch.cat([deltas for _, deltas in scored], dim=1),
            counts=tuple(len(level) for level in anchors),
        )

    @torch.no_grad()
    def propose(self, output: RpnOutput, sizes: list[tuple[int, int]]) -> list[Proposals]:
        """Proposals of each image of the batch; `sizes` are heights and widths without padding."""
        return [
            self._propose(output, logits, deltas, size)
            for logits, deltas, size in zip(output.logits, output.deltas, sizes, strict=True)
        ]

    def _propose(self, output: RpnOutput, logits: torch.Tensor, deltas: torch.Tensor, size: tuple[int, int]) -> Proposals:
        chosen, levels, start = [], [], 0
        for level, count in enumerate(output.counts):
            best = logits[start : start + count].topk(min(self.per_level, count)).indices + start
            chosen.append(best)
            levels.append(torch.full_like(best, level))
            start += count
        index, level = torch.cat(chosen), torch.cat(levels)
        boxes = clip(decode(output.anchors[index], deltas[index], DELTA_WEIGHTS), *size)
        usable = nonempty(boxes) & boxes.isfinite().all(dim=1) & logits[index].isfinite()
        boxes, scores, level = boxes[usable], logits[index][usable], level[usable]
        kept = batched_nms(boxes, scores, level, NMS_THRESHOLD)[: self.total]
        return Proposals(boxes[kept], scores[kept])
