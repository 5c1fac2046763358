"""Sentences as CLIP's byte-pair tokens, with one id more for a hidden word."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from open_clip.tokenizer import SimpleTokenizer

from pseudo_ris.models.clip.scorer import build_tokenizer

OPENAI = "openai"
"""Name of the tokenizer that all published CLIPs share."""


class ClipTokenizer:
    """See model.Tokenizer. CLIP has no token for a hidden word: the id after its last one is that.

    Of a sentence that is too long the last token is the end token, as in ETRIS and CRIS. Padding is 0, which is a word's id
    too ("!"): `attention` tells them apart.

    Args:
        name: a CLIP's architecture: "demo" (the embedded one's words), "openai" or an open_clip model name.
    """

    def __init__(self, length: int = 17, name: str = OPENAI) -> None:
        words = _words(name)
        self.length = length
        self.mask_id = words.vocab_size
        self.vocabulary = words.vocab_size + 1
        self.start_id, self.end_id = words.sot_token_id, words.eot_token_id
        self.special_ids = (self.start_id, self.end_id, self.mask_id)
        self.name = name

    def __call__(self, sentences: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens int64 [N, L] and attention bool [N, L]."""
        tokens = _words(self.name)(list(sentences), context_length=self.length)
        # The start and all up to the first end token.
        ended = (tokens == self.end_id).cumsum(1) - (tokens == self.end_id).long()
        return tokens, ended == 0


@cache
def _words(name: str) -> SimpleTokenizer:
    """Its vocabulary comes with open_clip; reading it takes a while."""
    return SimpleTokenizer() if name == OPENAI else build_tokenizer(name)
