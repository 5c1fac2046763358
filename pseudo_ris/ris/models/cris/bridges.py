"""ETRIS's bridging adapters: what lets two frozen towers see each other (Xu et al., ICCV 2023, sec. 3.2)."""

from __future__ import annotations

import torch
from torch import nn


class Bridge(nn.Module):
    """Pixels attend to words and words to pixels in a narrow space; both get what comes of it added.

    The last layers start at zero, so that training starts from the towers as they are.

    Args:
        channels, words: width of the map and of the words. width, heads: of the narrow space.
    """

    def __init__(self, channels: int, words: int, width: int, heads: int) -> None:
        super().__init__()
        self.pixels_in = nn.Conv2d(channels, width, 1)
        self.words_in = nn.Linear(words, width)
        self.pixel_norm, self.word_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_pixels = nn.MultiheadAttention(width, heads, batch_first=True)
        self.to_words = nn.MultiheadAttention(width, heads, batch_first=True)
        self.pixels_out = nn.Conv2d(width, channels, 1)
        self.words_out = nn.Linear(width, words)
        for layer in (self.pixels_out, self.words_out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, features: torch.Tensor, words: torch.Tensor, attention: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Map float [B, C, H, W], words float [B, L, W], attention bool [B, L]. Returns both, changed."""
        pixels = self.pixels_in(features)
        flat = self.pixel_norm(pixels.flatten(2).transpose(1, 2))
        narrow = self.word_norm(self.words_in(words))
        from_words = self.to_pixels(flat, narrow, narrow, key_padding_mask=~attention, need_weights=False)[0]
        from_pixels = self.to_words(narrow, flat, flat, need_weights=False)[0]
        back = from_words.transpose(1, 2).unflatten(2, pixels.shape[2:])
        return features + self.pixels_out(back), words + self.words_out(from_pixels)
