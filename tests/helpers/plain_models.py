"""RIS models without weights, whose masks are known beforehand, and targets for them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from PIL import Image

from pseudo_ris.ris.config import ModelConfig
from pseudo_ris.ris.data.targets import Target
from pseudo_ris.ris.models.base import ImageFeatures, RisModel, SampleForm, rows_of
from pseudo_ris.ris.models.letterbox import FrameKind

CHANNELS = ("red", "green", "blue")


class ChannelTokenizer:
    """A sentence's first word is its token: the number of a colour."""

    length = 3
    vocabulary = 4
    mask_id = 3
    special_ids = (3,)

    def __call__(self, sentences: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = torch.tensor([[CHANNELS.index(sentence.split()[0])] * self.length for sentence in sentences])
        return tokens, torch.ones(tokens.shape, dtype=torch.bool)


class PlainModel(RisModel):
    """What all of these share: pixels come as they are, from 0 to 1; calls are noted."""

    def __init__(self, size: int, frame: FrameKind) -> None:
        super().__init__()
        self.form = SampleForm(size, frame, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        self.tokenizer = ChannelTokenizer()
        self.images: list[int] = []
        self.batches: list[int] = []
        self.modes: set[bool] = set()
        self.precisions: set[torch.dtype | None] = set()

    @classmethod
    def from_config(cls, config: ModelConfig) -> PlainModel:
        return cls(config.input_size, "stretch")

    def image_features(self, images: torch.Tensor) -> ImageFeatures:
        self.images.append(len(images))
        return (images,)

    def from_features(
        self, features: ImageFeatures, tokens: torch.Tensor, attention: torch.Tensor, owners: torch.Tensor | None = None
    ) -> torch.Tensor:
        (images,) = rows_of(features, owners)
        self.batches.append(len(images))
        self.modes.add(self.training)
        self.precisions.add(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None)
        foreground = self.foreground(images, tokens)
        return torch.stack([-foreground, foreground], 1)

    def foreground(self, images: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def parameter_groups(self) -> list:
        return []


class ColourModel(PlainModel):
    """Finds the pixels in which the sentence's colour is over a half."""

    def foreground(self, images: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return 50 * (images[torch.arange(len(images)), tokens[:, 0]] - 0.5)


class Answering(PlainModel):
    """Gives prepared masks, one a sentence, in their order."""

    def __init__(self, size: int, frame: FrameKind, masks: Sequence[np.ndarray]) -> None:
        super().__init__(size, frame)
        self.masks = iter(masks)

    def foreground(self, images: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.from_numpy(next(self.masks)) for _ in images]).float() * 20 - 10


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def given(value: object) -> object:
    return value


def target(name: str, pixels: np.ndarray, mask: np.ndarray, sentences: tuple[str, ...] = ("red",), **fields) -> Target:
    return Target(name, partial(given, png(pixels)), partial(given, mask), sentences, **fields)


def block(height: int, width: int, rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[rows, columns] = True
    return mask


def painted(*masks: np.ndarray) -> np.ndarray:
    """The picture whose channels are these masks, the missing ones black."""
    pixels = np.zeros((*masks[0].shape, 3), np.uint8)
    for channel, mask in enumerate(masks):
        pixels[..., channel] = 255 * mask
    return pixels
