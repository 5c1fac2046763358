"""Interface of all RIS models: image and words in, mask logits out, and the form of their samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn
from typing_extensions import Self

from pseudo_ris.ris.config import NO_WEIGHTS, ModelConfig
from pseudo_ris.ris.models.letterbox import FrameKind

BACKGROUND, FOREGROUND = 0, 1

ImageFeatures = tuple[torch.Tensor, ...]
"""Of M images, each tensor with M rows."""


class Tokenizer(Protocol):
    """Sentences -> words of a model's vocabulary.

    length: L, tokens of a sentence, start and end included. vocabulary: number of ids that the model takes, `mask_id`
    included. mask_id: the token that stands for a hidden word. special_ids: tokens that are no words (start, end, padding,
    mask ...); these are never masked and never drawn as a random word.
    """

    length: int
    vocabulary: int
    mask_id: int
    special_ids: tuple[int, ...]

    def __call__(self, sentences: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens int64 [N, L] and attention bool [N, L], False on padding. Sentences are cut to L tokens."""
        ...


@dataclass(frozen=True)
class SampleForm:
    """How a model's samples are made.

    input_size: side of the square image, pixels. frame: see frames. mean, std: of the RGB channels, of pixels in [0, 1].
    """

    input_size: int
    frame: FrameKind
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class Supervision(NamedTuple):
    """What N sentences of a training step should find.

    truth: share of each pixel that is the object's, float [N, S, S]. rows: the sentences whose pixels are wanted, int64 [n];
    None: all.
    """

    truth: torch.Tensor
    rows: torch.Tensor | None = None


class RisModel(nn.Module, ABC):
    """Base of all RIS models.

    form, tokenizer: how its samples are made. class_weights: of background and foreground in the pixel loss. frozen_images:
    whether nothing that image_features runs learns, so that its results can be kept. drawn_every: in training the pixels of
    every n-th sentence count.
    """

    frozen_images: bool = False
    drawn_every: int = 1
    form: SampleForm
    tokenizer: Tokenizer
    class_weights: tuple[float, float] = (1.0, 1.0)

    @classmethod
    @abstractmethod
    def from_config(cls, config: ModelConfig) -> Self:
        """The model of a config; what no file gives is drawn from torch's current random state. Raises UserError."""

    @classmethod
    def for_checkpoint(cls, config: ModelConfig, pieces: Sequence[str]) -> Self:
        """The model of a config, to be filled from a checkpoint. It needs none of the files that training started from.

        pieces: those of the model that was saved. Raises UserError when there is no such size.
        """
        return cls.from_config(replace(config, image_weights=NO_WEIGHTS, text_weights=NO_WEIGHTS, detector_weights=NO_WEIGHTS))

    @property
    def pieces(self) -> list[str]:
        """The tokenizer's word pieces, where they depend on the config: a checkpoint keeps them beside the weights."""
        return []

    @abstractmethod
    def image_features(self, images: torch.Tensor) -> ImageFeatures:
        """The part of the model that reads no sentence; it runs once an image, however many sentences the image has.

        images: float [M, 3, S, S], normalised as `form` says; S is a multiple of 32.
        """

    @abstractmethod
    def from_features(
        self, features: ImageFeatures, tokens: torch.Tensor, attention: torch.Tensor, owners: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Logits of background and foreground, float32 [N, 2, H, W], at the resolution that the model works at.

        features: see image_features, of M images. tokens: int64 [N, L]. attention: bool [N, L], False on padding.
        owners: int64 [N], the image of each sentence; None: sentence n belongs to image n.
        H and W are S, or less where the model overrides `upsampled`.
        """

    def learn(
        self,
        features: ImageFeatures,
        tokens: torch.Tensor,
        attention: torch.Tensor,
        owners: torch.Tensor | None,
        wanted: Supervision,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """For a training step: the logits of the sentences in `wanted.rows`, and a loss of the model's own of each, float [N].

        Overridden by models that do not only learn from the pixels of their logits. For the rest see from_features.
        """
        logits = self.from_features(features, tokens, attention, owners)
        return logits if wanted.rows is None else logits[wanted.rows], logits.new_zeros(len(tokens))

    def forward(
        self,
        images: torch.Tensor | ImageFeatures,
        tokens: torch.Tensor,
        attention: torch.Tensor,
        owners: torch.Tensor | None = None,
        wanted: Supervision | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """The logits of N sentences about M images, see image_features and from_features; with `wanted` see `learn`.

        images: see image_features, or what that returns.
        """
        features = self.image_features(images) if isinstance(images, torch.Tensor) else images
        if wanted is None:
            return self.from_features(features, tokens, attention, owners)
        return self.learn(features, tokens, attention, owners, wanted)

    def upsampled(self, logits: torch.Tensor, side: int) -> torch.Tensor:
        """The logits that `forward` gives, [B, 2, H, W], for each pixel of the images: [B, 2, side, side]."""
        return logits

    def image_blocks(self) -> list[nn.Module]:
        """The image tower's blocks in training, each of which makes a map of a map; none where no gradient passes through."""
        return []

    @abstractmethod
    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for an optimiser that hold every trainable parameter once.

        Each has "params", "tower" (whether they are pre-trained and so learn more slowly) and "decay" (whether weight decay
        applies to them).
        """


def rows_of(features: ImageFeatures, owners: torch.Tensor | None) -> ImageFeatures:
    """The features of each sentence's image, N rows each; see RisModel.from_features."""
    return features if owners is None else tuple(feature[owners] for feature in features)


def parameter_groups(
    model: nn.Module, is_tower: Callable[[str], bool], decays: Callable[[str, nn.Parameter], bool]
) -> list[dict[str, Any]]:
    """Groups of RisModel.parameter_groups, of the parameters that learn. is_tower, decays: by a parameter's name."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((is_tower(name), decays(name, parameter)), []).append(parameter)
    return [{"params": params, "tower": tower, "decay": decay} for (tower, decay), params in groups.items()]


def is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies to a parameter, where a model has no rule of its own: no biases, norms and embeddings."""
    return parameter.ndim >= 2 and "embedding" not in name
