"""CRIS's decoder and text-to-pixel projector (Wang et al., CVPR 2022, secs. 3.2 and 3.3)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from pseudo_ris.ris.models.cris.neck import convolution
from pseudo_ris.ris.models.position_encoding import sine_positions

KERNEL = 3
PRIOR = -3.0
"""The logit that a pixel starts from: an object is a few percent of its image."""


class DecoderLayer(nn.Module):
    """Pixels look at pixels, then at words, then each at itself; normalised before and after each, as CRIS does."""

    def __init__(self, width: int, heads: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.own = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.cross = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.inner = nn.Sequential(
            nn.Linear(width, inner), nn.ReLU(), nn.Dropout(dropout), nn.LayerNorm(inner), nn.Linear(inner, width)
        )
        self.before = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.after = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        # Attention that has learnt nothing yet adds nothing.
        for norm in self.after:
            nn.init.zeros_(norm.weight)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, pixels: torch.Tensor, words: torch.Tensor, places: torch.Tensor, word_places: torch.Tensor, padding: torch.Tensor
    ) -> torch.Tensor:
        """pixels: float [B, P, W]. words: float [B, L, W]. places, word_places: what tells them apart. padding: bool [B, L]."""
        normed = self.before[0](pixels)
        placed = normed + places
        attended = self.own(placed, placed, normed, need_weights=False)[0]
        pixels = pixels + self.dropout(self.after[0](attended))
        normed = self.before[1](pixels)
        attended = self.cross(normed + places, words + word_places, words, key_padding_mask=padding, need_weights=False)[0]
        pixels = pixels + self.dropout(self.after[1](attended))
        return pixels + self.dropout(self.inner(self.before[2](pixels)))


class Decoder(nn.Module):
    """A map of pixels asks the words, layer by layer.

    Args:
        width: of the map. words: width of the words, which are brought to the map's.
    """

    def __init__(self, width: int, words: int, layers: int, heads: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.words = nn.Linear(words, width) if words != width else nn.Identity()
        self.layers = nn.ModuleList(DecoderLayer(width, heads, inner, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, features: torch.Tensor, words: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
        """features: float [B, W, H, W']. words: float [B, L, D]. attention: bool [B, L]. Returns a map like `features`."""
        height, width = features.shape[2:]
        places = sine_positions(features.shape[1], height, width, features.device)
        words = self.words(words)
        word_places = sine_positions(features.shape[1], 1, words.shape[1], words.device)
        pixels = features.flatten(2).transpose(1, 2)
        for layer in self.layers:
            pixels = layer(pixels, words, places, word_places, ~attention)
        return self.norm(pixels).transpose(1, 2).unflatten(2, (height, width))


class Projector(nn.Module):
    """The sentence becomes a 3x3 kernel and a bias, which find it in the map at four times the resolution.

    Args:
        width: of the map. sentence: width of the sentence. pixels: channels that the kernel sees.
    """

    def __init__(self, width: int, sentence: int, pixels: int) -> None:
        super().__init__()
        self.pixels = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="bilinear"),
            convolution(width, width, 3),
            nn.Upsample(scale_factor=2, mode="bilinear"),
            convolution(width, pixels, 3),
            nn.Conv2d(pixels, pixels, 1),
        )
        self.kernel = nn.Linear(sentence, pixels * KERNEL * KERNEL + 1)
        nn.init.constant_(self.kernel.bias[-1:], PRIOR)

    def forward(self, features: torch.Tensor, sentence: torch.Tensor) -> torch.Tensor:
        """features: float [B, W, H, W']. sentence: float [B, D]. Returns logits float [B, 1, 4H, 4W']."""
        pixels = self.pixels(features)
        batch, channels, height, width = pixels.shape
        parameters = self.kernel(sentence)
        kernels = parameters[:, :-1].reshape(batch, channels, KERNEL, KERNEL)
        # One group for each sample: its own kernel on its own map.
        flat = pixels.reshape(1, batch * channels, height, width)
        logits = functional.conv2d(flat, kernels, parameters[:, -1], padding=KERNEL // 2, groups=batch)
        return logits.reshape(batch, 1, height, width)
