"""Sentences as CLIP's tokens."""

from __future__ import annotations

import pytest
import torch

from pseudo_ris.ris.models.cris.tokenizer import ClipTokenizer


@pytest.mark.parametrize("name", ["openai", "demo"])
def test_attention_covers_start_words_and_end(name):
    tokenizer = ClipTokenizer(12, name)
    tokens, attention = tokenizer(["a red ball", ""])
    assert tokens.shape == attention.shape == (2, 12)
    assert attention.sum(1).tolist() == [5, 2]
    assert tokens[0, 0] == tokens[1, 0] == tokenizer.start_id
    assert tokens[0, 4] == tokens[1, 1] == tokenizer.end_id


def test_a_word_whose_id_is_paddings_is_seen():
    tokens, attention = ClipTokenizer(6)(["! !"])
    assert tokens[0, 1:3].tolist() == [0, 0] or attention[0, :3].all()
    assert attention[0].sum() == (tokens[0] == 49407).nonzero()[0].item() + 1


def test_what_is_too_long_keeps_its_end():
    tokenizer = ClipTokenizer(5, "demo")
    tokens, attention = tokenizer(["a red ball on the left of it all"])
    assert attention.all()
    assert tokens[0, -1] == tokenizer.end_id


def test_the_hidden_words_id_is_one_beyond_clips():
    tokenizer = ClipTokenizer()
    assert (tokenizer.mask_id, tokenizer.vocabulary) == (49408, 49409)
    assert not torch.isin(tokenizer(["any words"])[0], torch.tensor(tokenizer.mask_id)).any()
