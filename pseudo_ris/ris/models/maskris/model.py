"""The model that MaskRIS trains: CARIS's, from Swin and BERT (Liu et al., ACM MM 2023; MaskRIS, arXiv 2411.19067)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from pseudo_ris.config import EMBEDDED_NAME
from pseudo_ris.errors import UserError
from pseudo_ris.ris.config import NO_WEIGHTS, ModelConfig
from pseudo_ris.ris.models.base import ImageFeatures, RisModel, SampleForm, parameter_groups, rows_of
from pseudo_ris.ris.models.maskris.language import Language
from pseudo_ris.ris.models.maskris.pixel_decoder import PixelDecoder
from pseudo_ris.ris.models.maskris.pretrained import fill, find_file, read_bert, read_swin, window_of_state
from pseudo_ris.ris.models.maskris.sizes import SIZES, Size
from pseudo_ris.ris.models.maskris.swin import TABLE, Swin
from pseudo_ris.ris.models.maskris.tokenizer import BertWords, demo_vocabulary, read_vocabulary

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class MaskRis(RisModel):
    """See RisModel.

    Args:
        window: side of Swin's attention windows, in patches.
        input_size: see SampleForm.
    """

    class_weights = (0.9, 1.1)

    def __init__(self, size: Size, window: int, tokenizer: BertWords, input_size: int) -> None:
        super().__init__()
        self.form = SampleForm(input_size, "stretch", IMAGENET_MEAN, IMAGENET_STD)
        self.tokenizer = tokenizer
        self.image = Swin(size, window)
        self.language = Language(size, size.bert_words or tokenizer.vocabulary)
        self.decoder = PixelDecoder(size)

    @classmethod
    def from_config(cls, config: ModelConfig) -> MaskRis:
        """The model of a config; what no file gives is drawn from torch's current random state.

        Raises UserError when weights are missing, damaged or another model's, or there is no such size or vocabulary.
        """
        size = _size_of(config)
        image_file, text_file = (find_file(config, setting, NO_WEIGHTS) for setting in ("image_weights", "text_weights"))
        vocabulary = find_file(config, "vocabulary", EMBEDDED_NAME)
        pieces = demo_vocabulary() if vocabulary is None else read_vocabulary(vocabulary)
        tokenizer = BertWords(pieces, config.words, config.keep_end)
        _check_words(config, size, tokenizer)
        image_state = None if image_file is None else read_swin(image_file)
        window = size.window if image_file is None else window_of_state(image_state, image_file)
        model = cls(size, window, tokenizer, config.input_size)
        if image_file is not None:
            remedy = "set model.size to that of these weights, or other model.image_weights"
            fill(model.image.trunk, image_state, image_file, remedy)
        if text_file is not None:
            remedy = "set model.text_weights to BERT-base (uncased), or model.size to one that has it"
            fill(model.language.bert, read_bert(text_file), text_file, remedy)
        return model

    @classmethod
    def for_checkpoint(cls, config: ModelConfig, pieces: Sequence[str]) -> MaskRis:
        """See RisModel. Swin's windows become those of the weights when they are loaded."""
        size = _size_of(config)
        return cls(size, size.window, BertWords(pieces, config.words, config.keep_end), config.input_size)

    @property
    def pieces(self) -> list[str]:
        """See RisModel."""
        return self.tokenizer.pieces

    def image_features(self, images: torch.Tensor) -> ImageFeatures:
        """See RisModel: Swin's map of stride 32, which the prompts read, and the decoder's four maps."""
        maps = self.image(images)
        return maps[-1], *self.decoder.prepare(maps)

    def from_features(
        self, features: ImageFeatures, tokens: torch.Tensor, attention: torch.Tensor, owners: torch.Tensor | None = None
    ) -> torch.Tensor:
        """See RisModel. Logits are at stride 4."""
        coarsest, *prepared = rows_of(features, owners)
        words = self.language(tokens, attention, coarsest)
        return self.decoder(prepared, words, attention).float()

    def upsampled(self, logits: torch.Tensor, side: int) -> torch.Tensor:
        """See RisModel. Bilinear with aligned corners, as in the release."""
        return functional.interpolate(logits, (side, side), mode="bilinear", align_corners=True)

    def image_blocks(self) -> list[nn.Module]:
        """See RisModel. Swin's blocks."""
        return [block for stage in self.image.trunk.layers for block in stage.blocks]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """See RisModel. Towers are Swin and BERT; the prompts that BERT reads are new.

        As in the release, LayerNorms, embeddings and Swin's position tables do not decay. All else does, also biases, gammas,
        GroupNorms and the embedding of the levels.
        """
        kept = {
            id(parameter)
            for module in self.modules()
            if isinstance(module, nn.LayerNorm | nn.Embedding) and module is not self.decoder.levels
            for parameter in module.parameters()
        }
        return parameter_groups(
            self,
            lambda name: name.startswith(("image.", "language.bert.")),
            lambda name, parameter: id(parameter) not in kept and not name.endswith(TABLE),
        )


def _size_of(config: ModelConfig) -> Size:
    """Raises UserError when there is no such size, or a setting belongs to another model."""
    if config.adapters:
        raise UserError("model.adapters: only model.name clip has them; take the option away")
    if config.size not in SIZES:
        raise UserError(f"model.size: maskris has no {config.size}; give one of {', '.join(SIZES)}")
    return SIZES[config.size]


def _check_words(config: ModelConfig, size: Size, tokenizer: BertWords) -> None:
    """Raises UserError when the vocabulary or the sentences' length do not fit the size or the weights."""
    if config.words > size.bert_places:
        raise UserError(f"model.words: {config.size} takes at most {size.bert_places} tokens, got {config.words}")
    if size.bert_words is not None and tokenizer.vocabulary > size.bert_words:
        raise UserError(
            f"model.vocabulary: {config.vocabulary} has {tokenizer.vocabulary} pieces, {config.size} takes {size.bert_words}; "
            "give bert-base-uncased's vocab.txt"
        )
    if config.text_weights != NO_WEIGHTS and config.vocabulary == EMBEDDED_NAME:
        raise UserError("model.vocabulary: demo has other words than model.text_weights; give the vocab.txt of these weights")
