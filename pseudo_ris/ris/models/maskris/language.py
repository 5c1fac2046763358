"""BERT as the language tower, with prompts that the image gives: the one place that knows transformers' BERT."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional
from transformers import BertConfig, BertModel

from pseudo_ris.ris.models.maskris.initialisation import draw_linear
from pseudo_ris.ris.models.maskris.sizes import Size

POOLINGS = (1, 2)
"""Sides of the grids that the coarsest map is averaged to; each cell gives one prompt."""
PROMPTS = sum(side * side for side in POOLINGS)


class ConditionalPrompts(nn.Module):
    """What the coarsest map shows, as words that BERT can read beside the sentence."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.readers = nn.ModuleList(
            nn.Sequential(nn.Linear(channels, width), nn.ReLU(), nn.Linear(width, width)) for _ in POOLINGS
        )
        draw_linear(self.readers)
        self.learned = nn.Embedding(PROMPTS, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, coarsest: torch.Tensor) -> torch.Tensor:
        """coarsest: float [B, C, H, W]. Returns prompts [B, 5, width]."""
        pooled = [functional.adaptive_avg_pool2d(coarsest, side).flatten(2).transpose(1, 2) for side in POOLINGS]
        seen = torch.cat([reader(cells) for reader, cells in zip(self.readers, pooled, strict=True)], dim=1)
        return self.norm(self.learned.weight + seen)


class Language(nn.Module):
    """Words -> their features, read together with the prompts of the image.

    Args:
        words: rows of the word table.
    """

    def __init__(self, size: Size, words: int) -> None:
        super().__init__()
        self.prompts = ConditionalPrompts(size.channels[-1], size.bert_width)
        self.bert = BertModel(
            BertConfig(
                vocab_size=words,
                hidden_size=size.bert_width,
                num_hidden_layers=size.bert_layers,
                num_attention_heads=size.bert_heads,
                intermediate_size=4 * size.bert_width,
                max_position_embeddings=size.bert_places,
                hidden_dropout_prob=size.dropout,
                attention_probs_dropout_prob=size.dropout,
                attn_implementation="sdpa",
            ),
            add_pooling_layer=False,
        )

    def forward(self, tokens: torch.Tensor, attention: torch.Tensor, coarsest: torch.Tensor) -> torch.Tensor:
        """tokens: int64 [B, L]. attention: bool [B, L]. coarsest: float [B, C, H, W]. Returns words float [B, L, width].

        Prompts join after the embedding, so they have no position; they see the words and are seen, and are then dropped.
        """
        read = torch.cat([self.bert.embeddings(tokens), self.prompts(coarsest)], dim=1)
        kept = with_prompts(attention, PROMPTS)
        return self.bert.encoder(read, attention_mask=kept[:, None, None]).last_hidden_state[:, : tokens.shape[1]]


def with_prompts(attention: torch.Tensor, prompts: int) -> torch.Tensor:
    """bool [B, L] -> [B, L + prompts]: a prompt is never padding."""
    return torch.cat([attention, attention.new_ones(len(attention), prompts)], dim=1)
