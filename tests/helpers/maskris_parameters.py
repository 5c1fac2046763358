"""What makes up a MaskRIS model's parameters: the arithmetic, part by part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from pseudo_ris.ris.models.maskris.sizes import Size


@dataclass(frozen=True)
class Part:
    """Some of a model's parameters.

    places: names of their modules, or their own. formula: the arithmetic that gives their number, a Python expression.
    """

    name: str
    places: tuple[str, ...]
    formula: str

    def count(self, model: nn.Module) -> int:
        """Parameters that the model has there."""
        beginnings = tuple(f"{place}." for place in self.places)
        return sum(parameter.numel() for name, parameter in model.named_parameters() if f"{name}.".startswith(beginnings))


def parts_of(size: Size, window: int, words: int) -> list[Part]:
    """All parts of a MaskRis, each parameter in one of them. window, words: see MaskRis and Language.

    A linear layer from m to n has (m + 1) * n, a norm two a channel; a transformer block of width c has c * c for query, key,
    value and result each, and 8 * c * c for the feed-forward part.
    """
    return [*_swin(size, window), *_language(size, words), *_decoder(size)]


def _swin(size: Size, window: int) -> list[Part]:
    channels = size.channels
    parts = [Part("Swin patches", ("image.trunk.patch_embed",), f"(3*4*4 + 1)*{channels[0]} + 2*{channels[0]}")]
    for stage, (c, depth, heads) in enumerate(zip(channels, size.swin_depths, size.swin_heads, strict=True)):
        module = f"image.trunk.layers.{stage}"
        if stage:
            before = channels[stage - 1]
            parts.append(Part(f"Swin merging {stage}", (f"{module}.downsample",), f"2*4*{before} + 4*{before}*{c}"))
        formula = f"{depth}*(12*{c}*{c} + 13*{c} + (2*{window} - 1)**2*{heads})"
        parts.append(Part(f"Swin stage {stage + 1}", (f"{module}.blocks",), formula))
    return [*parts, Part("norms of Swin's maps", ("image.norms",), f"2*({' + '.join(map(str, channels))})")]


def _language(size: Size, words: int) -> list[Part]:
    d, c = size.bert_width, size.channels[-1]
    return [
        Part("BERT embeddings", ("language.bert.embeddings",), f"({words} + {size.bert_places} + 2)*{d} + 2*{d}"),
        Part("BERT layers", ("language.bert.encoder",), f"{size.bert_layers}*(12*{d}*{d} + 13*{d})"),
        Part("conditional prompts", ("language.prompts",), f"2*(({c} + 1)*{d} + ({d} + 1)*{d}) + 5*{d} + 2*{d}"),
    ]


def _decoder(size: Size) -> list[Part]:
    w, d, heads, (finest, *others) = size.width, size.bert_width, size.heads, size.channels
    layers = [f"decoder.layers.{number}" for number in range(size.layers)]

    def in_layers(name: str, places: Sequence[str], formula: str) -> Part:
        return Part(f"decoder {name}", tuple(f"{layer}.{each}" for layer in layers for each in places), formula)

    attentions = ("words_to_pixels", "words_to_words", "pixels_to_words")
    return [
        Part("decoder inputs", ("decoder.inputs",), f"({' + '.join(map(str, others))} + 3)*{w} + 3*2*{w}"),
        Part("decoder words", ("decoder.words",), f"({d} + 1)*{w} + 2*{w}"),
        Part("decoder levels, prompts", ("decoder.levels", "decoder.prompts"), f"(3 + 5)*{w}"),
        in_layers("attention", attentions, f"{size.layers}*3*(3*({w} + 1)*4*{w} + (4*{w} + 1)*{w})"),
        in_layers(
            "deformable attention",
            ("pixels_to_pixels",),
            f"{size.layers}*(({w} + 1)*{heads}*3*4*(2 + 1) + 2*({w} + 1)*{w})",
        ),
        in_layers("feed-forward", ("word_inner", "pixel_inner"), f"{size.layers}*2*(({w} + 1)*4*{w} + (4*{w} + 1)*{w})"),
        in_layers("norms", ("word_norms", "pixel_norms"), f"{size.layers}*6*2*{w}"),
        in_layers("gammas", ("word_gamma", "pixel_gamma"), f"{size.layers}*2*{w}"),
        Part("decoder stride 4", ("decoder.lateral", "decoder.joined"), f"{finest}*{w} + 9*{w}*{w} + 2*2*{w}"),
        Part("mask features, queries", ("decoder.mask_features", "decoder.queries"), f"2*3*({w} + 1)*{w}"),
    ]
