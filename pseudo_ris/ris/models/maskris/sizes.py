"""The sizes of the model: a tiny one for the drawn world, and the published ones."""

from __future__ import annotations

from dataclasses import dataclass, replace

FourStages = tuple[int, int, int, int]


@dataclass(frozen=True)
class Size:
    """Widths and depths; feed-forward parts are four times as wide as what they work on, everywhere.

    Args:
        swin_width: channels of Swin's first map; each further one has twice as many.
        swin_depths, swin_heads: blocks and heads of the four stages.
        window: side of an attention window, in patches, where no weights say another.
        drop_path: rate at which Swin's last block is skipped in training; it grows linearly from 0 at the first.
        bert_width, bert_layers, bert_heads: of BERT.
        bert_words: rows of the word table; None is as many as the vocabulary has.
        bert_places: rows of the position table, the most tokens a sentence can have.
        dropout: of BERT in training.
        width, layers, heads: of the pixel decoder.
    """

    swin_width: int
    swin_depths: FourStages
    swin_heads: FourStages
    window: int
    drop_path: float
    bert_width: int
    bert_layers: int
    bert_heads: int
    bert_words: int | None
    bert_places: int
    dropout: float
    width: int
    layers: int
    heads: int

    @property
    def channels(self) -> FourStages:
        """Of Swin's maps, strides 4, 8, 16 and 32."""
        first = self.swin_width
        return first, 2 * first, 4 * first, 8 * first


TINY = Size(
    swin_width=32,
    swin_depths=(1, 1, 2, 1),
    swin_heads=(1, 2, 4, 8),
    window=8,
    drop_path=0.0,
    bert_width=128,
    bert_layers=2,
    bert_heads=4,
    bert_words=None,
    bert_places=64,
    dropout=0.0,
    width=64,
    layers=2,
    heads=4,
)
BASE = Size(
    swin_width=128,
    swin_depths=(2, 2, 18, 2),
    swin_heads=(4, 8, 16, 32),
    window=7,
    drop_path=0.3,
    bert_width=768,
    bert_layers=12,
    bert_heads=12,
    bert_words=30_522,
    bert_places=512,
    dropout=0.1,
    width=256,
    layers=6,
    heads=8,
)
SMALL = replace(BASE, swin_width=96, swin_heads=(3, 6, 12, 24))
SIZES = {"tiny": TINY, "small": SMALL, "base": BASE}
"""tiny: the drawn world's. small: Swin-S. base: Swin-B, the paper's. The last two have BERT-base (uncased)."""
