"""Losses against hand computation and torch's own."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from pseudo_ris.ris.clip_words import ClipTokenizer
from pseudo_ris.ris.config import MaskingConfig
from pseudo_ris.ris.losses import pixel_cross_entropy, training_loss
from pseudo_ris.ris.masking import distort

WEIGHTS = (0.9, 1.1)


def test_two_pixels_by_hand():
    logits = torch.tensor([[[[0.0, 1.0]], [[2.0, 0.0]]]])  # background 0 and 1, foreground 2 and 0
    target = torch.tensor([[[1.0, 0.0]]])
    first = -math.log(math.exp(2) / (1 + math.exp(2)))
    second = -math.log(math.e / (1 + math.e))
    expected = (1.1 * first + 0.9 * second) / (1.1 + 0.9)
    assert pixel_cross_entropy(logits, target, WEIGHTS).item() == pytest.approx(expected, rel=1e-6)


def test_a_soft_target_by_hand():
    logits = torch.tensor([[[[0.0]], [[1.0]]]])
    foreground = math.e / (1 + math.e)
    expected = -(0.9 * 0.25 * math.log(1 - foreground) + 1.1 * 0.75 * math.log(foreground)) / (0.9 * 0.25 + 1.1 * 0.75)
    loss = pixel_cross_entropy(logits, torch.tensor([[[0.75]]]), WEIGHTS)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_with_hard_targets_it_is_the_mean_of_torchs_weighted_cross_entropies():
    logits, target = torch.randn(3, 2, 8, 8), (torch.rand(3, 8, 8) < 0.3).float()
    each = [
        functional.cross_entropy(*pair, torch.tensor(WEIGHTS))
        for pair in zip(logits.split(1), target.long().split(1), strict=True)
    ]
    torch.testing.assert_close(pixel_cross_entropy(logits, target, WEIGHTS), sum(each) / 3)


def test_with_equal_weights_and_no_background_logit_it_is_binary_cross_entropy():
    logit, target = torch.randn(3, 8, 8), torch.rand(3, 8, 8)
    both = torch.stack([torch.zeros_like(logit), logit], dim=1)
    theirs = functional.binary_cross_entropy_with_logits(logit, target)
    torch.testing.assert_close(pixel_cross_entropy(both, target, (1.0, 1.0)), theirs)


class Tiny(nn.Module):
    """Logits that see pixels and words; keeps what it was called with."""

    class_weights = WEIGHTS

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer = ClipTokenizer(8)
        self.pixels, self.words = nn.Conv2d(3, 2, 1), nn.Embedding(self.tokenizer.vocabulary, 2)
        self.calls: list[int] = []

    def forward(self, images, tokens, attention):
        self.calls.append(len(images))
        return self.pixels(images) + self.words(tokens).mean(1)[:, :, None, None]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Tiny()


@pytest.fixture
def batch(model):
    torch.manual_seed(1)
    tokens, attention = model.tokenizer(["a dog on the left", "one red ball"])
    mask = (torch.rand(2, 64, 64) < 0.4).float()
    return {"image": torch.randn(2, 3, 64, 64), "mask": mask, "tokens": tokens, "attention": attention}


def test_without_masking_it_is_the_plain_loss(model, batch):
    expected = pixel_cross_entropy(model(batch["image"], batch["tokens"], batch["attention"]), batch["mask"], WEIGHTS)
    torch.testing.assert_close(training_loss(model, batch, MaskingConfig(), [0, 1]), expected)


def test_distortion_aware_loss_is_half_truth_and_half_the_plain_prediction(model, batch):
    masking = MaskingConfig(image=True, text=True)
    images, tokens = distort(batch["image"], batch["tokens"], model.tokenizer, masking, [5, 6])
    plain, distorted = model(batch["image"], batch["tokens"], batch["attention"]), model(images, tokens, batch["attention"])
    predicted = plain.softmax(1)[:, 1].detach()
    expected = 0.5 * pixel_cross_entropy(plain, batch["mask"], WEIGHTS) + 0.5 * pixel_cross_entropy(
        distorted, predicted, WEIGHTS
    )
    torch.testing.assert_close(training_loss(model, batch, masking, [5, 6]), expected)


def test_targets_of_the_second_pass_carry_no_gradient(model, batch):
    masking = MaskingConfig(image=True, text=True)
    training_loss(model, batch, masking, [5, 6]).backward()
    got = model.pixels.weight.grad.clone()
    model.zero_grad()
    images, tokens = distort(batch["image"], batch["tokens"], model.tokenizer, masking, [5, 6])
    plain = model(batch["image"], batch["tokens"], batch["attention"])
    fixed = torch.tensor(plain.softmax(1)[:, 1].tolist())  # mere numbers
    loss = 0.5 * pixel_cross_entropy(plain, batch["mask"], WEIGHTS)
    (loss + 0.5 * pixel_cross_entropy(model(images, tokens, batch["attention"]), fixed, WEIGHTS)).backward()
    torch.testing.assert_close(got, model.pixels.weight.grad)
    model.zero_grad()
    plain = model(batch["image"], batch["tokens"], batch["attention"])
    loss = 0.5 * pixel_cross_entropy(plain, batch["mask"], WEIGHTS)
    attached = plain.softmax(1)[:, 1]
    (loss + 0.5 * pixel_cross_entropy(model(images, tokens, batch["attention"]), attached, WEIGHTS)).backward()
    assert not torch.allclose(got, model.pixels.weight.grad, rtol=1e-2), "the test would notice"


def test_without_distortion_awareness_the_masked_input_learns_from_the_truth(model, batch):
    masking = MaskingConfig(image=True, text=True, distortion_aware=False)
    images, tokens = distort(batch["image"], batch["tokens"], model.tokenizer, masking, [5, 6])
    expected = pixel_cross_entropy(model(images, tokens, batch["attention"]), batch["mask"], WEIGHTS)
    model.calls.clear()
    torch.testing.assert_close(training_loss(model, batch, masking, [5, 6]), expected)
    assert model.calls == [2]
