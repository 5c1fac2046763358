"""A MaskRis as small as it goes, for tests."""

from __future__ import annotations

import torch

from pseudo_ris.ris.models.maskris.model import MaskRis
from pseudo_ris.ris.models.maskris.sizes import Size
from pseudo_ris.ris.models.maskris.tokenizer import BertWords, demo_vocabulary

MICRO = Size(
    swin_width=8,
    swin_depths=(1, 1, 2, 1),
    swin_heads=(1, 2, 2, 4),
    window=4,
    drop_path=0.0,
    bert_width=16,
    bert_layers=2,
    bert_heads=2,
    bert_words=None,
    bert_places=16,
    dropout=0.0,
    width=32,
    layers=2,
    heads=4,
)
SENTENCES = ["the leftmost striped ball", "a red star on the left"]


def micro_model(seed: int = 0, input_size: int = 64) -> MaskRis:
    """In training mode; there is no dropout."""
    torch.manual_seed(seed)
    return MaskRis(MICRO, MICRO.window, BertWords(demo_vocabulary(), 10), input_size)


def micro_batch(model: MaskRis, side: int = 64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images of noise, tokens and attention."""
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    return images, *model.tokenizer(SENTENCES)
