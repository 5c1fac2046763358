"""Beam search and greedy sampling give the tokens of open_clip's own `generate` (golden/beam_search)."""

import numpy as np
import pytest
import torch
from coca_recipe import GOLDEN, recipe_captioner

from pseudo_ris.captions.beam_search import beam_search
from pseudo_ris.captions.distinctive import keyed_draw, sample, sampled_rows
from pseudo_ris.config import DecodingConfig

END = 49407


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN / "beam_search" / "expected.npz")


@pytest.fixture(scope="module")
def captioner():
    return recipe_captioner()


@pytest.fixture(scope="module")
def early_captioner():
    captioner = recipe_captioner()
    with torch.no_grad():
        columns = captioner.projection
        columns[:, END] = columns[:, 5461] + 0.5 * columns[:, 44045]
    return captioner


def greedy(captioner, images, length):
    """Sampling from the one most likely token, which leaves the noise nothing to decide."""
    decoding = DecodingConfig(
        calibration="none", min_token_probability=0, top_k=(1,), top_p=(), max_length=length, max_distractors=0
    )
    rows = sampled_rows(["masked"], range(len(images.latents)), decoding)
    return sample(captioner, images, rows, decoding, keyed_draw(0, "image"))


def padded(rows, width):
    return [row + [0] * (width - len(row)) for row in rows]


@pytest.mark.parametrize("length", [12, 30])
def test_beam_search_tokens(captioner, golden, length):
    images = captioner.encode(torch.from_numpy(golden["images"]))
    assert beam_search(captioner, images, DecodingConfig(max_length=length)) == golden[f"beam_{length}"].tolist()


@pytest.mark.parametrize("length", [12, 30])
def test_greedy_tokens(captioner, golden, length):
    images = captioner.encode(torch.from_numpy(golden["images"]))
    assert greedy(captioner, images, length) == golden[f"greedy_{length}"].tolist()


def test_captions_that_end_early(early_captioner, golden):
    images = early_captioner.encode(torch.from_numpy(golden["early_images"]))
    beams = beam_search(early_captioner, images, DecodingConfig(max_length=20))
    assert padded(beams, 20) == golden["early_beam_20"].tolist()
    assert padded(greedy(early_captioner, images, 20), 20) == golden["early_greedy_20"].tolist()
