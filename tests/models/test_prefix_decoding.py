"""The incremental decoder against open_clip's whole forward."""

import pytest
import torch
from coca_oracle import PAD, START, full_prefix_logits, random_captioner

from pseudo_ris.models.coca.decoding import PrefixDecoder, _look_crop_by_crop, _look_padded


def read(captioner, crops, viewers, steps):
    """Yields (prefixes, LastHidden) after each step; steps: (tokens, parents) pairs."""
    decoder = PrefixDecoder(captioner, captioner.encode(crops), torch.arange(len(crops)), viewers, len(steps))
    prefixes = [[] for _ in viewers]
    for tokens, parents in steps:
        prefixes = [[*prefixes[parent], token] for token, parent in zip(tokens, parents, strict=True)]
        yield prefixes, decoder.step(torch.tensor(tokens), torch.tensor(parents))


# Rows 0 and 1 share their prefix for a while, rows 2 and 4 end, row 3 branches.
STEPS = [
    ([START] * 5, [0, 1, 2, 3, 4]),
    ([7, 7, 9, 9], [0, 1, 2, 3]),
    ([7, 8, 9], [0, 1, 3]),
    ([11, 12, 13, 11, 12], [0, 1, 2, 2, 2]),
    ([11, 12, 13, 11, 12], [4, 3, 2, 1, 0]),
]


@torch.inference_mode()
def test_shared_ended_and_branched_rows():
    captioner = random_captioner(1)
    crops = torch.randn(3, 3, 16, 16)
    viewers = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 0, 1], [0, 1, 1], [1, 1, 1]], dtype=torch.bool)
    of_row = list(range(5))
    for step, (prefixes, last) in enumerate(read(captioner, crops, viewers, STEPS)):
        of_row = [of_row[parent] for parent in STEPS[step][1]]
        for row, prefix in enumerate(prefixes):
            expected = full_prefix_logits(captioner.model, crops, prefix)
            seen = viewers[of_row[row]].nonzero()[:, 0]
            found = last.values[last.cells[row, seen]] @ captioner.projection
            torch.testing.assert_close(found, expected[seen], atol=2e-5, rtol=1e-5)


@torch.inference_mode()
def test_equal_prefixes_are_read_once():
    captioner = random_captioner(2)
    viewers = torch.ones(6, 2, dtype=torch.bool)
    steps = [([START] * 6, range(6)), ([5, 5, 5, 5, 6, 6], range(6)), ([5, 5, 5, 6, 6, 6], range(6))]
    counts = [len(last.values) for _, last in read(captioner, torch.randn(2, 3, 16, 16), viewers, steps)]
    assert counts == [2, 4, 6]


@torch.inference_mode()
def test_pad_token_inside_a_prefix():
    captioner = random_captioner(3)
    crops = torch.randn(1, 3, 16, 16)
    steps = [([START], [0]), ([PAD], [0]), ([4], [0]), ([PAD], [0]), ([5], [0]), ([5], [0])]
    for prefixes, last in read(captioner, crops, torch.ones(1, 1, dtype=torch.bool), steps):
        expected = full_prefix_logits(captioner.model, crops, prefixes[0])[0]
        torch.testing.assert_close(last.values[last.cells[0, 0]] @ captioner.projection, expected, atol=2e-5, rtol=1e-5)


def test_text_tower_without_class_token_is_refused():
    with pytest.raises(ValueError, match="embed_cls"):
        random_captioner(4, embed_cls=False)


def test_cells_see_the_same_with_and_without_padding():
    of_crop, generator = [3, 0, 1, 4], torch.Generator().manual_seed(0)
    query = torch.randn(sum(of_crop), 2, 16, generator=generator)
    keys, values = torch.randn(2, len(of_crop), 2, 5, 16, generator=generator)
    alone = _look_crop_by_crop(query, of_crop, keys, values)
    torch.testing.assert_close(_look_padded(query, of_crop, keys, values), alone)
    weights = torch.einsum("hd,htd->ht", query[5], keys[3]).div(4).softmax(1)
    torch.testing.assert_close(alone[5], torch.einsum("ht,htd->hd", weights, values[3]))
