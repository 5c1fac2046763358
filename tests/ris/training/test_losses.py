"""Losses against hand computation and torch's own."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from pseudo_ris.ris.config import MaskingConfig
from pseudo_ris.ris.models.base import RisModel, rows_of
from pseudo_ris.ris.models.cris.tokenizer import ClipTokenizer
from pseudo_ris.ris.training.losses import prediction_loss, training_loss, truth_loss
from pseudo_ris.ris.training.masking import distort

WEIGHTS = (0.9, 1.1)


def test_two_pixels_by_hand():
    logits = torch.tensor([[[[0.0, 1.0]], [[2.0, 0.0]]]])  # background 0 and 1, foreground 2 and 0
    target = torch.tensor([[[1.0, 0.0]]])
    first = -math.log(math.exp(2) / (1 + math.exp(2)))
    second = -math.log(math.e / (1 + math.e))
    expected = (1.1 * first + 0.9 * second) / (1.1 + 0.9)
    assert truth_loss(logits, target, WEIGHTS).item() == pytest.approx(expected, rel=1e-6)


def test_a_pixel_that_is_partly_the_object_s_by_hand():
    logits = torch.tensor([[[[0.0]], [[1.0]]]])
    foreground = math.e / (1 + math.e)
    expected = -(0.9 * 0.25 * math.log(1 - foreground) + 1.1 * 0.75 * math.log(foreground)) / (0.9 * 0.25 + 1.1 * 0.75)
    loss = truth_loss(logits, torch.tensor([[[0.75]]]), WEIGHTS)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_with_hard_targets_it_is_torchs_weighted_cross_entropy_of_the_whole_batch():
    logits, target = torch.randn(3, 2, 8, 8), (torch.rand(3, 8, 8) < 0.3).float()
    target[0] = 0  # so that the samples' weights differ
    expected = functional.cross_entropy(logits, target.long(), torch.tensor(WEIGHTS))
    torch.testing.assert_close(truth_loss(logits, target, WEIGHTS), expected)


def test_the_mean_of_two_processes_is_the_loss_of_their_joint_batch():
    logits, target = torch.randn(4, 2, 8, 8), (torch.rand(4, 8, 8) < 0.3).float()
    target[:2] = 0
    parts = list(zip(logits.split(2), target.split(2), strict=True))
    mean_weight = sum(0.9 * (1 - truth).sum() + 1.1 * truth.sum() for _, truth in parts) / 2
    losses = [truth_loss(*part, WEIGHTS, lambda _: mean_weight) for part in parts]
    torch.testing.assert_close(sum(losses) / 2, truth_loss(logits, target, WEIGHTS))


def test_with_equal_weights_and_no_background_logit_it_is_binary_cross_entropy():
    logit, target = torch.randn(3, 8, 8), torch.rand(3, 8, 8)
    both = torch.stack([torch.zeros_like(logit), logit], dim=1)
    theirs = functional.binary_cross_entropy_with_logits(logit, target)
    torch.testing.assert_close(truth_loss(both, target, (1.0, 1.0)), theirs)


def test_the_loss_from_a_prediction_is_divided_by_pixels_not_by_weights():
    logits, predicting = torch.randn(2, 2, 3, 4), 3 * torch.randn(2, 2, 3, 4)
    total = 0.0
    for sample, row, column in torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(4)).tolist():
        said, predicted = (each[sample, :, row, column].softmax(0).tolist() for each in (logits, predicting))
        total -= sum(weight * p * math.log(q) for weight, p, q in zip(WEIGHTS, predicted, said, strict=True))
    assert prediction_loss(logits, predicting, WEIGHTS).item() == pytest.approx(total / 24, rel=1e-5)


class Tiny(RisModel):
    """Logits at stride 4 that see pixels and words; keeps what it was called with."""

    class_weights = WEIGHTS

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer = ClipTokenizer(8)
        self.pixels, self.words = nn.Conv2d(3, 2, 4, stride=4), nn.Embedding(self.tokenizer.vocabulary, 2)
        self.calls: list[int] = []

    @classmethod
    def from_config(cls, config):
        return cls()

    def parameter_groups(self):
        return []

    def image_features(self, images):
        return (self.pixels(images),)

    def from_features(self, features, tokens, attention, owners=None):
        self.calls.append(len(tokens))
        return rows_of(features, owners)[0] + self.words(tokens).mean(1)[:, :, None, None]

    def upsampled(self, logits, side):
        return functional.interpolate(logits, (side, side), mode="bilinear", align_corners=True)


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


def from_truth(model, logits, batch):
    return truth_loss(model.upsampled(logits, 64), batch["mask"], WEIGHTS)


def test_without_masking_it_is_the_plain_loss(model, batch):
    expected = from_truth(model, model(batch["image"], batch["tokens"], batch["attention"]), batch)
    torch.testing.assert_close(training_loss(model, batch, MaskingConfig(), [0, 1]), expected)


def test_distortion_aware_loss_is_half_truth_at_full_size_and_half_the_plain_prediction_at_stride_4(model, batch):
    masking = MaskingConfig(image=True, text=True)
    images, tokens = distort(batch["image"], batch["tokens"], model.tokenizer, masking, [5, 6])
    plain, distorted = model(batch["image"], batch["tokens"], batch["attention"]), model(images, tokens, batch["attention"])
    assert plain.shape == (2, 2, 16, 16)
    expected = 0.5 * from_truth(model, plain, batch) + 0.5 * prediction_loss(distorted, plain.detach(), WEIGHTS)
    torch.testing.assert_close(training_loss(model, batch, masking, [5, 6]), expected)


def test_targets_of_the_second_pass_carry_no_gradient(model, batch):
    masking = MaskingConfig(image=True, text=True)
    training_loss(model, batch, masking, [5, 6]).backward()
    got = model.pixels.weight.grad.clone()
    images, tokens = distort(batch["image"], batch["tokens"], model.tokenizer, masking, [5, 6])

    def gradient(predicted):
        model.zero_grad()
        plain = model(batch["image"], batch["tokens"], batch["attention"])
        distorted = model(images, tokens, batch["attention"])
        loss = 0.5 * from_truth(model, plain, batch) + 0.5 * prediction_loss(distorted, predicted(plain), WEIGHTS)
        loss.backward()
        return model.pixels.weight.grad

    torch.testing.assert_close(got, gradient(lambda plain: torch.tensor(plain.tolist())).clone())  # mere numbers
    assert not torch.allclose(got, gradient(lambda plain: plain), rtol=1e-2), "the test would notice"


def test_without_distortion_awareness_the_masked_input_learns_from_the_truth(model, batch):
    masking = MaskingConfig(image=True, text=True, distortion_aware=False)
    images, tokens = distort(batch["image"], batch["tokens"], model.tokenizer, masking, [5, 6])
    expected = from_truth(model, model(images, tokens, batch["attention"]), batch)
    model.calls.clear()
    torch.testing.assert_close(training_loss(model, batch, masking, [5, 6]), expected)
    assert model.calls == [2]


@pytest.mark.parametrize("masking", [MaskingConfig(), MaskingConfig(image=True, text=True)], ids=["plain", "masked"])
def test_sentences_of_one_image_have_the_loss_of_one_image_a_sentence(model, batch, masking):
    """Oracle: the image repeated for each of its sentences."""
    seeds = [5, 5, 7, 7]
    repeated = {name: values.repeat_interleave(2, 0) for name, values in batch.items()}
    repeated["tokens"] = model.tokenizer(["a dog on the left", "one red ball", "a cat", "two dogs at the top"])[0]
    repeated["mask"] = (torch.rand(4, 64, 64) < 0.4).float()
    grouped = {**repeated, "image": batch["image"], "owner": torch.tensor([0, 0, 1, 1])}
    losses = [training_loss(model, each, masking, seeds) for each in (grouped, repeated)]
    torch.testing.assert_close(*losses)
    features = {**grouped, "image": model.image_features(batch["image"])}
    if not masking.image:
        torch.testing.assert_close(training_loss(model, features, masking, seeds), losses[1])


def test_pixels_of_every_nth_sentence_count(model, batch):
    model.drawn_every = 2
    first = {name: values[:1] for name, values in batch.items()}
    torch.testing.assert_close(
        training_loss(model, batch, MaskingConfig(), [1, 2]), training_loss(model, first, MaskingConfig(), [1])
    )
