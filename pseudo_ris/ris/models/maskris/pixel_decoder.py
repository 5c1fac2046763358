"""CARIS's vision-language pixel decoder (Liu et al., ACM MM 2023): pixels of three strides and words, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional

from pseudo_ris.ris.models.base import ImageFeatures
from pseudo_ris.ris.models.maskris.attention import ClampedAttention, DeformableAttention, relative_positions
from pseudo_ris.ris.models.maskris.initialisation import draw_convolution, draw_linear
from pseudo_ris.ris.models.maskris.language import with_prompts
from pseudo_ris.ris.models.maskris.sizes import Size

LEVELS, POINTS = 3, 4
"""Maps that the layers work on, coarsest first, and points that a pixel looks at in each."""
WIDER = 4
"""Factor of the inner width of attention and feed-forward parts."""
GROUPS = 32
PROMPTS = 5


class DecoderLayer(nn.Module):
    """Words and prompts look at pixels and at each other, then pixels at them and at pixels; normalised after each step."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.words_to_pixels, self.words_to_words, self.pixels_to_words = (
            ClampedAttention(width, WIDER * width, heads) for _ in range(3)
        )
        self.pixels_to_pixels = DeformableAttention(width, heads, LEVELS, POINTS)
        self.word_inner, self.pixel_inner = (
            nn.Sequential(nn.Linear(width, WIDER * width), nn.ReLU(), nn.Linear(WIDER * width, width)) for _ in range(2)
        )
        for inner in (self.word_inner, self.pixel_inner):
            draw_linear(inner)
        self.word_gamma, self.pixel_gamma = (nn.Parameter(torch.ones(width)) for _ in range(2))
        self.word_norms, self.pixel_norms = (nn.ModuleList(nn.LayerNorm(width) for _ in range(3)) for _ in range(2))

    def forward(
        self,
        pixels: torch.Tensor,
        words: torch.Tensor,
        places: torch.Tensor,
        kept: torch.Tensor,
        shapes: list[tuple[int, int]],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """pixels: float [B, P, W]. words: float [B, L, W], prompts included. places: float [P, W]. kept: bool [B, L].

        shapes: see DeformableAttention. Returns pixels and words, changed.
        """
        seen = self.words_to_pixels(words, pixels + places, pixels)
        words = self.word_norms[0](words + self.word_gamma * seen)
        words = self.word_norms[1](words + self.words_to_words(words, words, words, kept))
        words = self.word_norms[2](words + self.word_inner(words))
        read = self.pixels_to_words(pixels + places, words, words, kept)
        pixels = self.pixel_norms[0](pixels + self.pixel_gamma * read)
        pixels = self.pixel_norms[1](pixels + self.pixels_to_pixels(pixels, places, shapes))
        return self.pixel_norms[2](pixels + self.pixel_inner(pixels)), words


class PixelDecoder(nn.Module):
    """Four maps and the words -> logits of background and foreground at stride 4."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        width = size.width
        finest, *others = size.channels
        self.inputs = nn.ModuleList(
            nn.Sequential(draw_convolution(nn.Conv2d(channels, width, 1)), nn.GroupNorm(GROUPS, width))
            for channels in reversed(others)
        )
        self.levels = nn.Embedding(LEVELS, width)
        self.words = nn.Sequential(nn.Linear(size.bert_width, width), nn.LayerNorm(width))
        self.prompts = nn.Embedding(PROMPTS, width)
        self.layers = nn.ModuleList(DecoderLayer(width, size.heads) for _ in range(size.layers))
        lateral = draw_convolution(nn.Conv2d(finest, width, 1, bias=False))
        joined = draw_convolution(nn.Conv2d(width, width, 3, padding=1, bias=False))
        self.lateral = nn.Sequential(lateral, nn.GroupNorm(GROUPS, width))
        self.joined = nn.Sequential(joined, nn.GroupNorm(GROUPS, width), nn.ReLU())
        self.mask_features = _three(lambda: nn.Conv2d(width, width, 1))
        self.queries = _three(lambda: nn.Linear(width, width))

    def prepare(self, maps: Sequence[torch.Tensor]) -> ImageFeatures:
        """The four maps at the decoder's width, once an image: those of strides 32, 16, 8 and 4. maps: see Swin."""
        finest, *others = maps
        reduced = (reduce(each) for reduce, each in zip(self.inputs, reversed(others), strict=True))
        return *reduced, self.lateral(finest)

    def forward(self, prepared: Sequence[torch.Tensor], words: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
        """Logits [B, 2, S / 4, S / 4].

        prepared: see `prepare`, of each sentence's image. words: float [B, L, width]. attention: bool [B, L].
        """
        *others, lateral = prepared
        pixels, places, shapes = self._flattened(others)
        words = torch.cat([self.words(words), self.prompts.weight.expand(len(words), -1, -1)], dim=1)
        kept = with_prompts(attention, PROMPTS)
        for layer in self.layers:
            pixels, words = layer(pixels, words, places, kept, shapes)
        height, width = shapes[-1]
        eighth = pixels[:, -height * width :].transpose(1, 2).unflatten(2, (height, width))
        features = self._mask_features(lateral, eighth)
        return torch.einsum("bqc,bchw->bqhw", self._queries(words), features)

    def _flattened(self, maps: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, list[tuple[int, int]]]:
        """Pixels of all levels in a row, where they are, and the levels' shapes."""
        shapes = [(each.shape[2], each.shape[3]) for each in maps]
        pixels = [each.flatten(2).transpose(1, 2) for each in maps]
        places = [
            relative_positions(level.numel(), shape, level.device) + level
            for level, shape in zip(self.levels.weight, shapes, strict=True)
        ]
        return torch.cat(pixels, dim=1), torch.cat(places), shapes

    def _mask_features(self, lateral: torch.Tensor, eighth: torch.Tensor) -> torch.Tensor:
        """What the queries are compared with, at stride 4."""
        upsampled = functional.interpolate(eighth, lateral.shape[2:], mode="bilinear", align_corners=False)
        return self.mask_features(self.joined(lateral + upsampled))

    def _queries(self, words: torch.Tensor) -> torch.Tensor:
        """One of the background, which the prompts give, and one of the foreground, which [CLS] does: [B, 2, W]."""
        return self.queries(torch.stack([words[:, -PROMPTS:].mean(1), words[:, 0]], dim=1))


def _three(layer: Callable[[], nn.Module]) -> nn.Sequential:
    """Three layers with ReLUs between them."""
    return nn.Sequential(layer(), nn.ReLU(), layer(), nn.ReLU(), layer())
