"""What MaskRIS hides."""

from __future__ import annotations

import pytest
import torch

from pseudo_ris.ris.config import MaskingConfig
from pseudo_ris.ris.models.cris.tokenizer import ClipTokenizer
from pseudo_ris.ris.training.masking import distort, drawn_words, mask_words, shown_patches

BOTH = MaskingConfig(image=True, text=True)


@pytest.mark.parametrize(("share", "hidden"), [(0.75, 147), (0.5, 98), (0.6, 118), (0.9, 177), (0.0, 0), (1.0, 196)])
def test_the_share_of_hidden_patches_is_exact(share, hidden):
    for seed in range(20):
        patches = shown_patches(448, 32, share, seed).view(14, 32, 14, 32).transpose(1, 2).flatten(2)
        assert torch.equal(patches.all(2), patches.any(2)), "a patch is hidden as a whole or not at all"
        assert (~patches.any(2)).sum() == hidden


def test_patches_at_the_edge_may_be_smaller():
    shown = shown_patches(80, 32, 0.5, 0)
    assert shown.shape == (80, 80)
    assert (~shown).sum() > 0


def test_every_patch_is_hidden_about_equally_often():
    hidden = sum((~shown_patches(128, 32, 0.75, seed)[::32, ::32]).float() for seed in range(2000)) / 2000
    assert (hidden - 0.75).abs().max() < 0.05  # five standard deviations


def test_hidden_pixels_are_zero_and_the_others_stay():
    images = torch.randn(2, 3, 64, 64)
    tokenizer = ClipTokenizer()
    tokens = tokenizer(["a dog", "two cats"])[0]
    distorted = distort(images, tokens, tokenizer, BOTH, [3, 4])[0]
    for before, after, seed in zip(images, distorted, (3, 4), strict=True):
        shown = shown_patches(64, 32, 0.75, seed)
        torch.testing.assert_close(after[:, shown], before[:, shown], rtol=0, atol=0)
        assert (after[:, ~shown] == 0).all()


@pytest.mark.slow
def test_words_are_hidden_replaced_and_kept_as_berts_are():
    tokenizer = ClipTokenizer(77)
    tokens = tokenizer(["one two three four five six seven eight nine ten " * 7])[0][0]
    special = torch.isin(tokens, torch.tensor(tokenizer.special_ids))
    rounds = 4000
    drawn = drawn_words(tokenizer, special=False)
    changed = torch.stack([mask_words(tokens, tokenizer, drawn, 0.15, seed) for seed in range(rounds)])
    assert (changed[:, special] == tokens[special]).all(), "start and end stay"
    words = changed[:, ~special]
    draws = words.numel()
    hidden = (words == tokenizer.mask_id).sum() / draws
    other = ((words != tokens[~special]) & (words != tokenizer.mask_id)).sum() / draws
    assert draws > 250_000
    assert hidden.item() == pytest.approx(0.15 * 0.8, abs=0.003)
    assert other.item() == pytest.approx(0.15 * 0.1, abs=0.0015)
    assert words.max() <= tokenizer.mask_id
    assert not torch.isin(words, torch.tensor([tokenizer.start_id, tokenizer.end_id])).any(), "no special token is drawn"


def test_a_share_of_one_chooses_every_word():
    tokenizer = ClipTokenizer(12)
    tokens = tokenizer(["one two three four"])[0]
    drawn = drawn_words(tokenizer, special=False)
    changed = torch.stack([mask_words(tokens[0], tokenizer, drawn, 1.0, seed) for seed in range(500)])
    kept = (changed == tokens[0])[:, 1:5].float().mean().item()
    assert kept == pytest.approx(0.1, abs=0.04)
    assert torch.equal(mask_words(tokens[0], tokenizer, drawn, 0.0, 0), tokens[0])


class TenIds:
    """Start and end are 0 and 8, the hidden word is 9."""

    length, vocabulary, mask_id, special_ids = 6, 10, 9, (0, 8, 9)


def test_a_random_word_is_a_special_token_only_where_asked_for():
    tokens = torch.tensor([[0, 1, 2, 3, 4, 8]]).expand(300, -1)
    for draw_special, expected in ((False, {*range(1, 8), 9}), (True, set(range(10)))):
        masking = MaskingConfig(text=True, text_share=1.0, draw_special=draw_special)
        changed = distort(torch.zeros(300, 1), tokens, TenIds(), masking, range(300))[1]
        assert set(changed[:, 1:5].unique().tolist()) == expected
        assert torch.equal(changed[:, [0, 5]], tokens[:, [0, 5]])


def test_each_part_can_be_switched_off():
    images, tokenizer = torch.ones(1, 3, 64, 64), ClipTokenizer()
    tokens = tokenizer(["one two three four five six seven eight nine ten"])[0]
    everything = MaskingConfig(image=False, text=True, text_share=1.0)
    same, changed = distort(images, tokens, tokenizer, everything, [0])
    assert torch.equal(same, images)
    assert not torch.equal(changed, tokens)
    changed, same = distort(images, tokens, tokenizer, MaskingConfig(image=True, text=False), [0])
    assert torch.equal(same, tokens)
    assert not torch.equal(changed, images)


def test_what_is_hidden_depends_on_the_samples_seed_only():
    images, tokenizer = torch.randn(4, 3, 64, 64), ClipTokenizer()
    tokens = tokenizer(["one two three four five six seven eight nine ten"] * 4)[0]
    together = distort(images, tokens, tokenizer, BOTH, [5, 6, 7, 8])
    for place, seed in enumerate((5, 6, 7, 8)):
        alone = distort(images[place : place + 1], tokens[place : place + 1], tokenizer, BOTH, [seed])
        assert torch.equal(alone[0][0], together[0][place])
        assert torch.equal(alone[1][0], together[1][place])
    text_only = distort(images, tokens, tokenizer, MaskingConfig(text=True), [5, 6, 7, 8])
    assert torch.equal(text_only[1], together[1])
