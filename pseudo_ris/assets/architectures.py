"""Dimensions of the demo CoCa and CLIP, as keyword arguments of open_clip's own classes."""

from __future__ import annotations

from typing import Any

from pseudo_ris.assets.vocabulary import BPE_PATH, vocabulary_size

__all__ = ["BPE_PATH", "CLIP", "COCA"]

WIDTH = 128
HEADS = 4

_TEXT = {"vocab_size": vocabulary_size(), "width": WIDTH, "heads": HEADS}
# Room for the 30 tokens of a candidate, start and end included. The end token is the last id, the padding id is 0, as in
# the published models; the class token has a place of its own.
_CAPTION = {**_TEXT, "context_length": 32}
# The grammar's longest expression takes 14 and longer texts are cut: CLIP's text tower always reads all places, so each one
# costs time.
_SCORED_TEXT = {**_TEXT, "context_length": 16}

COCA: dict[str, Any] = {
    "embed_dim": WIDTH,
    "vision_cfg": {
        "image_size": 96,
        "patch_size": 12,
        "width": WIDTH,
        "layers": 4,
        "head_width": WIDTH // HEADS,
        "attentional_pool": True,
        "attn_pooler_queries": 24,
        "attn_pooler_heads": HEADS,
        "output_tokens": True,
    },
    "text_cfg": {**_CAPTION, "layers": 3, "embed_cls": True, "output_tokens": True},
    "multimodal_cfg": {**_CAPTION, "layers": 3, "attn_pooler_heads": HEADS},
}

CLIP: dict[str, Any] = {
    "embed_dim": 2 * WIDTH,
    "vision_cfg": {"image_size": 96, "layers": (1, 1, 2, 1), "width": 20, "head_width": 160},
    "text_cfg": {**_SCORED_TEXT, "layers": 2},
}
