"""Anchors, and boxes written as deltas from other boxes (Faster R-CNN, sec. 3.1.2), as detectron2 does both.

Boxes are float32 xyxy in pixels of the resized image, half-open. Deltas are (dx, dy, dw, dh): the centre's shift in
units of the reference box, and the logarithm of the size ratio, each times a weight.
"""

from __future__ import annotations

import math

import torch

ASPECT_RATIOS = (0.5, 1.0, 2.0)
MAX_LOG_SIZE = math.log(1000.0 / 16)  # detectron2's cap, so that exp cannot overflow

Weights = tuple[float, float, float, float]


def cell_anchors(size: float, ratios: tuple[float, ...] = ASPECT_RATIOS) -> torch.Tensor:
    """Boxes of area size^2 centred on the origin, one per ratio of height to width: float32 [ratios, 4]."""
    widths = [math.sqrt(size**2 / ratio) for ratio in ratios]
    halves = [(width / 2, ratio * width / 2) for width, ratio in zip(widths, ratios, strict=True)]
    return torch.tensor([(-w, -h, w, h) for w, h in halves])


def grid_anchors(cells: torch.Tensor, height: int, width: int, stride: int) -> torch.Tensor:
    """`cells` [a, 4] repeated at every cell of a feature map, row by row: [height * width * a, 4]."""
    x = torch.arange(width, device=cells.device, dtype=cells.dtype) * stride
    y = torch.arange(height, device=cells.device, dtype=cells.dtype) * stride
    y, x = torch.meshgrid(y, x, indexing="ij")
    shifts = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
    return (shifts + cells).reshape(-1, 4)


def encode(references: torch.Tensor, targets: torch.Tensor, weights: Weights) -> torch.Tensor:
    """Deltas that take `references` [n, 4] to `targets` [n, 4]: [n, 4]."""
    sizes, centres = _size_and_centre(references)
    target_sizes, target_centres = _size_and_centre(targets)
    shift = (target_centres - centres) / sizes
    growth = torch.log(target_sizes / sizes)
    return torch.cat([shift, growth], dim=1) * references.new_tensor(weights)


def decode(references: torch.Tensor, deltas: torch.Tensor, weights: Weights) -> torch.Tensor:
    """Boxes [n, 4] that `deltas` [n, 4] make of `references` [n, 4]."""
    sizes, centres = _size_and_centre(references)
    deltas = deltas.float() / references.new_tensor(weights)
    new_centres = deltas[:, :2] * sizes + centres
    halves = deltas[:, 2:].clamp(max=MAX_LOG_SIZE).exp() * sizes * 0.5
    return torch.cat([new_centres - halves, new_centres + halves], dim=1)


def clip(boxes: torch.Tensor, height: float, width: float) -> torch.Tensor:
    """`boxes` [n, 4] cut to the image."""
    limits = boxes.new_tensor([width, height, width, height])
    return torch.minimum(boxes.clamp(min=0), limits)


def nonempty(boxes: torch.Tensor) -> torch.Tensor:
    """Which of `boxes` [n, 4] have both width and height: bool [n]."""
    return (boxes[:, 2:] > boxes[:, :2]).all(dim=1)


def _size_and_centre(boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    sizes = boxes[:, 2:] - boxes[:, :2]
    return sizes, boxes[:, :2] + 0.5 * sizes
