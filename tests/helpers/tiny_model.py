"""A RIS model that learns, small enough for a step to take a millisecond, and targets for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from plain_models import CHANNELS, PlainModel, block, painted, target
from torch import nn

from pseudo_ris.ris.data.targets import Target

SIDE = 32


class TinyModel(PlainModel):
    """Pixels and words meet in a product of four channels. A white picture has no finite loss."""

    def __init__(self) -> None:
        super().__init__(SIDE, "stretch")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.pixels = nn.Conv2d(3, 4, 3, padding=1)
            self.words = nn.Embedding(4, 4)
        self.register_buffer("seen", torch.zeros(()))

    def foreground(self, images: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        white = images.flatten(1).amin(1)[:, None, None] == 1
        product = (self.pixels(images) * self.words(tokens[:, 0])[:, :, None, None]).sum(1)
        return product.masked_fill(white, float("nan"))

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [
            {"params": [self.pixels.weight], "tower": True, "decay": True},
            {"params": [self.pixels.bias], "tower": True, "decay": False},
            {"params": [self.words.weight], "tower": False, "decay": False},
        ]


def tiny_targets(count: int, white: int | None = None) -> list[Target]:
    """Blocks of one colour each, in a picture of three. white: the number of one whose picture is."""
    made = []
    for number in range(count):
        masks = [block(40, 48, slice(4 * part, 4 * part + 12), slice(number % 20, number % 20 + 20)) for part in range(3)]
        pixels = painted(*masks) if number != white else np.full((40, 48, 3), 255, np.uint8)
        made.append(target(f"{number}.png", pixels, masks[number % 3], (CHANNELS[number % 3],)))
    return made
