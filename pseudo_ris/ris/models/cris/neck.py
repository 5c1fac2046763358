"""CRIS's neck: the towers' three maps and the sentence become one map of stride 16 (Wang et al., CVPR 2022, sec. 3.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from pseudo_ris.ris.models.base import ImageFeatures

GROUPS = 32
"""Of GroupNorm, or fewer of 16 channels each. CRIS has BatchNorm: with GroupNorm a sample's result does not depend on its
batch, nor on how many processes share the batch."""

FIT_SCALE = 5.0
"""Brings CLIP's cosines, a few tenths, to the size of the other channels."""


def convolution(channels: int, out: int, kernel: int) -> nn.Sequential:
    """Convolution that keeps the size, normalisation, ReLU."""
    return nn.Sequential(nn.Conv2d(channels, out, kernel, padding=kernel // 2, bias=False), normalisation(out), nn.ReLU())


def normalisation(channels: int) -> nn.GroupNorm:
    """See GROUPS."""
    return nn.GroupNorm(max(1, min(GROUPS, channels // 16)), channels)


class Neck(nn.Module):
    """Maps of strides 8, 16 and 32 and the sentence -> one map of stride 16 that knows where each pixel is.

    Args:
        channels: of the three maps. sentence: width of the sentence. widths: CRIS's are 256, 512 and 1024; the middle one is
            the result's.
    """

    def __init__(self, channels: Sequence[int], sentence: int, widths: tuple[int, int, int]) -> None:
        super().__init__()
        fine, middle, coarse = widths
        self.sentence = nn.Sequential(nn.Linear(sentence, coarse), nn.LayerNorm(coarse), nn.ReLU())
        self.coarse = convolution(channels[2], coarse, 1)
        self.joined = nn.Sequential(normalisation(coarse), nn.ReLU())
        self.middle = convolution(channels[1], middle, 3)
        self.with_middle = convolution(middle + coarse, middle, 1)
        self.fine = convolution(channels[0], fine, 3)
        self.with_fine = convolution(fine + middle, middle, 1)
        self.levels = nn.ModuleList(convolution(width, middle, 3) for width in (coarse, middle, middle))
        self.together = convolution(3 * middle, middle, 1)
        self.placed = nn.Sequential(convolution(middle + 3, middle, 3), convolution(middle, middle, 3))

    def prepare(self, maps: Sequence[torch.Tensor]) -> ImageFeatures:
        """What is computed from the maps alone, once an image: three maps at the neck's widths and the coarse map as it was.

        maps: see ClipFeatures.
        """
        fine, middle, coarse = maps
        return functional.avg_pool2d(self.fine(fine), 2), self.middle(middle), self.coarse(coarse), coarse

    def forward(self, prepared: ImageFeatures, sentence: torch.Tensor) -> torch.Tensor:
        """prepared: see `prepare`, of each sentence's image. sentence: float [B, D]. Returns [B, middle width, S/16, S/16]."""
        fine, middle, coarse, raw = prepared
        joined = self.joined(coarse * self.sentence(sentence)[:, :, None, None])
        joined = functional.interpolate(joined, middle.shape[2:], mode="bilinear", align_corners=False)
        with_middle = self.with_middle(torch.cat([middle, joined], dim=1))
        with_fine = self.with_fine(torch.cat([fine, with_middle], dim=1))
        levels = [layer(each) for layer, each in zip(self.levels, (joined, with_middle, with_fine), strict=True)]
        together = self.together(torch.cat(levels, dim=1))
        fit = functional.cosine_similarity(raw, sentence[:, :, None, None], dim=1)[:, None]
        fit = FIT_SCALE * functional.interpolate(fit, middle.shape[2:], mode="bilinear", align_corners=False)
        return together + self.placed(torch.cat([together, fit, coordinates(together)], dim=1))


def coordinates(features: torch.Tensor) -> torch.Tensor:
    """x and y of each pixel from -1 to 1: [B, C, H, W] -> [B, 2, H, W] (CoordConv, Liu et al. 2018)."""
    batch, _, height, width = features.shape
    y = torch.linspace(-1, 1, height, dtype=features.dtype, device=features.device)
    x = torch.linspace(-1, 1, width, dtype=features.dtype, device=features.device)
    grid = torch.stack([x.expand(height, width), y[:, None].expand(height, width)])
    return grid.expand(batch, 2, height, width)
