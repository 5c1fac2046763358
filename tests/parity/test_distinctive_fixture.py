"""Distinctive sampling gives the probabilities and tokens of the released code (golden/distinctive_sampling)."""

import numpy as np
import pytest
import torch
from coca_recipe import GOLDEN, recipe_captioner

from pseudo_ris.captions.distinctive import sample, sampled_rows
from pseudo_ris.captions.noise import draw_tokens
from pseudo_ris.config import DecodingConfig

MASKS = 4


class RecordedDraw:
    """Draws by the recorded uniforms and keeps what it was given, in the golden file's row order."""

    def __init__(self, golden, decoding):
        strategies = [f"top_k_{k}" for k in decoding.top_k] + [f"top_p_{p:g}" for p in decoding.top_p]
        self.order = {(name, mask): place * MASKS + mask for place, name in enumerate(strategies) for mask in range(MASKS)}
        self.golden = golden
        self.support_size = np.zeros_like(golden["support_size"])
        self.top_prob = np.zeros_like(golden["top_prob"])

    def __call__(self, rows, step, q):
        places = [self.order[row.strategy.name, row.crop] for row in rows]
        self.support_size[step, places] = (q > 0).sum(1).numpy()
        top_index = torch.from_numpy(self.golden["top_index"][step, places])
        self.top_prob[step, places] = q.gather(1, top_index).numpy()
        return draw_tokens(q, torch.from_numpy(self.golden["uniforms"][step, places]).double())


@pytest.fixture(scope="module")
def run():
    golden = np.load(GOLDEN / "distinctive_sampling" / "expected.npz")
    captioner = recipe_captioner()
    decoding = DecodingConfig(min_token_probability=0, max_length=12)
    images = captioner.encode(torch.from_numpy(golden["images"]))
    rows = sampled_rows(["masked"], range(MASKS), decoding)
    draw = RecordedDraw(golden, decoding)
    tokens = np.zeros_like(golden["tokens"])
    for row, ids in zip(rows, sample(captioner, images, rows, decoding, draw), strict=True):
        tokens[draw.order[row.strategy.name, row.crop], : len(ids)] = ids
    return golden, draw, tokens


def test_every_token(run):
    golden, _, tokens = run
    assert (tokens == golden["tokens"]).all()


def test_support_sizes(run):
    golden, draw, _ = run
    assert (draw.support_size == golden["support_size"]).all()


def test_recorded_probabilities(run):
    golden, draw, _ = run
    assert np.abs(draw.top_prob - golden["top_prob"]).max() < 1e-5
