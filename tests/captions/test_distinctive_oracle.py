"""The engine's probabilities and tokens against the slow, obvious implementation, on small random CoCas."""

import pytest
import torch
from coca_oracle import END, PAD, START, distribution, random_captioner

from pseudo_ris.captions import sampling
from pseudo_ris.captions import token_filter as support
from pseudo_ris.captions.distinctive import sample, sampled_rows
from pseudo_ris.captions.noise import draw_tokens
from pseudo_ris.config import DecodingConfig


def compare(captioner, crops, decoding, crop_sets=("masked",)):
    """Samples with the engine while checking each row's q; then checks the captions' shape. Returns them by row."""
    per_set = len(crops) // len(crop_sets)
    prefixes = {}

    def draw(rows, step, q):
        for row, found in zip(rows, q, strict=True):
            first = row.crop // per_set * per_set
            prefix = prefixes.setdefault(row, [START])
            assert len(prefix) == step + 1
            own_set = crops[first : first + per_set]
            expected = distribution(captioner.model, own_set, prefix, row.crop - first, row.strategy, decoding)
            assert torch.equal(found > 0, expected > 1e-30), "support"
            torch.testing.assert_close(found.double(), expected, atol=2e-5, rtol=0)
        tokens = draw_tokens(q, torch.rand(len(rows), dtype=torch.float64))
        for row, token in zip(rows, tokens.tolist(), strict=True):
            prefixes[row].append(token)
        return tokens

    rows = sampled_rows(crop_sets, range(per_set), decoding)
    captions = sample(captioner, captioner.encode(crops), rows, decoding, draw)
    for row, ids in zip(rows, captions, strict=True):
        full = prefixes[row]
        assert ids == (full if full[-1] in (END, PAD) else [*full, END])
        assert len(ids) <= decoding.max_length
        assert END not in ids[: decoding.min_length]
    return captions


@pytest.mark.slow
@torch.inference_mode()
def test_distractors_projected_onto_the_support_only(monkeypatch):
    monkeypatch.setattr(support, "COLUMNS_SHARE", 1)
    captioner = random_captioner(10)
    decoding = DecodingConfig(min_token_probability=0, max_length=9, top_k=(3, 7), top_p=(0.4, 0.9))
    compare(captioner, torch.randn(3, 3, 16, 16), decoding)


@pytest.mark.slow
@torch.inference_mode()
def test_rows_projected_and_drawn_in_parts(monkeypatch):
    monkeypatch.setattr(sampling, "ROWS_PROJECTED", 5)
    monkeypatch.setitem(sampling.LOGITS_DRAWN, "cpu", 150)
    captioner = random_captioner(11)
    decoding = DecodingConfig(min_token_probability=0, max_length=8, top_k=(3, 7), top_p=(0.4, 0.9))
    compare(captioner, torch.randn(3, 3, 16, 16), decoding)


@pytest.mark.parametrize("calibration", ["mean", "softmax"])
@pytest.mark.parametrize("masks", [1, 2, 3, pytest.param(5, marks=pytest.mark.slow)])
@torch.inference_mode()
def test_engine_is_the_oracle(masks, calibration):
    captioner = random_captioner(masks)
    decoding = DecodingConfig(
        calibration=calibration, min_token_probability=0, max_length=9, top_k=(3, 7), top_p=(0.4, 0.9), calibration_weight=0.8
    )
    compare(captioner, torch.randn(masks, 3, 16, 16), decoding)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("calibration", ["mean", "softmax", "none"])
@torch.inference_mode()
def test_engine_is_the_oracle_over_seeds(seed, calibration):
    captioner = random_captioner(100 + seed)
    weight = 1.0 if calibration == "mean" else 3.0
    decoding = DecodingConfig(calibration=calibration, calibration_weight=weight, max_length=12, min_length=3 + seed % 3)
    compare(captioner, torch.randn(1 + seed % 4, 3, 16, 16), decoding)


@torch.inference_mode()
def test_plausibility_cut():
    captioner = random_captioner(7)
    decoding = DecodingConfig(min_token_probability=0.1, max_length=9, top_k=(9,), top_p=(0.8,))
    compare(captioner, torch.randn(3, 3, 16, 16), decoding)


@pytest.mark.parametrize("overflow", ["most_similar", "skip"])
@torch.inference_mode()
def test_more_masks_than_distractors(overflow):
    captioner = random_captioner(8)
    decoding = DecodingConfig(
        max_distractors=2, distractor_overflow=overflow, min_token_probability=0, max_length=8, top_k=(5,), top_p=(0.6,)
    )
    compare(captioner, torch.randn(5, 3, 16, 16), decoding)


@torch.inference_mode()
def test_crop_sets_decoded_together_stay_apart():
    captioner = random_captioner(9)
    decoding = DecodingConfig(min_token_probability=0, max_length=8, top_k=(5,), top_p=(0.6,))
    compare(captioner, torch.randn(6, 3, 16, 16), decoding, crop_sets=("masked", "image_1.0"))
