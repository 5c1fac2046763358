"""The two attentions of the pixel decoder."""

from __future__ import annotations

import math

import torch
from torch import nn
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention as PublishedAttention,
)
from transformers.models.mask2former.modeling_mask2former import Mask2FormerSinePositionEmbedding

from pseudo_ris.ris.models.maskris.initialisation import draw_linear

LIMIT = 50_000.0
"""Scores are kept within this, which fp16 can hold (up to 65,504): infinite ones would make the softmax NaN."""


class ClampedAttention(nn.Module):
    """Attention of several heads with an inner width of its own.

    Args:
        width: of queries, keys, values and result. inner: of all heads together.
    """

    def __init__(self, width: int, inner: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (inner // heads) ** -0.5
        self.query, self.key, self.value = (nn.Linear(width, inner) for _ in range(3))
        self.out = nn.Linear(inner, width)
        draw_linear(self)

    def forward(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, kept: torch.Tensor | None = None
    ) -> torch.Tensor:
        """queries: float [B, N, width]. keys, values: float [B, M, width]. kept: bool [B, M], False on what none may see."""
        query, key, value = self._split(self.query(queries) * self.scale), self._split(self.key(keys)), self.value(values)
        scores = (query @ key.transpose(2, 3)).clamp(-LIMIT, LIMIT)
        if kept is not None:
            scores = scores.masked_fill(~kept[:, None, None], -math.inf)
        return self.out((scores.softmax(3) @ self._split(value)).transpose(1, 2).flatten(2))

    def _split(self, joined: torch.Tensor) -> torch.Tensor:
        """[B, N, inner] -> [B, heads, N, inner / heads]."""
        return joined.unflatten(2, (self.heads, -1)).transpose(1, 2)


class DeformableAttention(nn.Module):
    """Each pixel looks at a few points of every level that it chooses itself (Zhu et al., ICLR 2021, sec. 4.1), in fp32.

    The one place that knows transformers' implementation, with the start that the paper gives it: head k looks in the k-th
    direction, one to `points` pixels away, at all points alike.
    """

    def __init__(self, width: int, heads: int, levels: int, points: int) -> None:
        super().__init__()
        self.inner = PublishedAttention(width, heads, levels, points)
        angles = torch.arange(heads) * (2 * math.pi / heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=1)
        directions = directions / directions.abs().amax(1, keepdim=True)
        steps = torch.arange(1, points + 1)
        starts = directions[:, None, None] * steps[:, None]  # [heads, 1, points, 2]
        nn.init.zeros_(self.inner.sampling_offsets.weight)
        with torch.no_grad():
            self.inner.sampling_offsets.bias.copy_(starts.expand(-1, levels, -1, -1).flatten())
        for layer in (self.inner.attention_weights, self.inner.value_proj, self.inner.output_proj):
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.inner.attention_weights.weight)
        nn.init.xavier_uniform_(self.inner.value_proj.weight)
        nn.init.xavier_uniform_(self.inner.output_proj.weight)

    def forward(self, pixels: torch.Tensor, places: torch.Tensor, shapes: list[tuple[int, int]]) -> torch.Tensor:
        """pixels: float [B, P, width], those of all levels. places: float [P, width]. shapes: height and width of each level.

        Returns float32 [B, P, width].
        """
        with torch.autocast(pixels.device.type, enabled=False):
            pixels, places = pixels.float(), places.float()
            centres = pixel_centres(shapes, pixels.device)[:, None].expand(-1, len(shapes), -1)
            extents = self._extents(shapes, pixels.device).expand(len(centres), -1, -1)
            return self.inner(
                pixels,
                encoder_hidden_states=pixels,
                position_embeddings=places,
                reference_points=torch.cat([centres, extents], dim=2).expand(len(pixels), -1, -1, -1),
                spatial_shapes_list=shapes,
            )[0]

    def _extents(self, shapes: list[tuple[int, int]], device: torch.device) -> torch.Tensor:
        """Width and height of boxes in which an offset of 1 is one pixel of each level, float32 [levels, 2].

        Given points without boxes, the published attention copies the shapes to the GPU in every call and waits for it.
        """
        sides = [torch.full((1,), 2 * self.inner.n_points / side, device=device) for shape in shapes for side in shape[::-1]]
        return torch.cat(sides).view(-1, 2)


def pixel_centres(shapes: list[tuple[int, int]], device: torch.device) -> torch.Tensor:
    """x and y of the pixels' centres, as shares of the map's width and height: float32 [P, 2], level by level."""
    centres = []
    for height, width in shapes:
        y = (torch.arange(height, device=device) + 0.5) / height
        x = (torch.arange(width, device=device) + 0.5) / width
        centres.append(torch.stack([x.repeat(height), y.repeat_interleave(width)], dim=1))
    return torch.cat(centres)


def relative_positions(width: int, shape: tuple[int, int], device: torch.device) -> torch.Tensor:
    """Sine positions of a map as shares of its size, so that levels agree on where a thing is: float32 [H * W, width].

    Source: DETR's (Carion et al., ECCV 2020), as CARIS has them.
    """
    published = Mask2FormerSinePositionEmbedding(width // 2, normalize=True)
    return published((1, width, *shape), device, torch.float32)[0].flatten(1).T
