"""The losses of the demo CoCa and CLIP, and that training is a function of scenes, seed and steps."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from pseudo_ris.lab.crop_data import Target
from pseudo_ris.lab.train_clip import noun_truth, train_clip, truth_loss
from pseudo_ris.lab.train_coca import contrastive_loss, train_coca
from pseudo_ris.world.scene_set import build_scene_set
from pseudo_ris.world.scenes import SceneObject


def unit_rows(count, seed):
    return normalize(torch.randn(count, 8, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_contrast_is_plain_info_nce_when_no_text_fits_two_images():
    images, texts, scale = unit_rows(5, 0), unit_rows(5, 1), torch.tensor(10.0)
    logits = scale * images @ texts.T
    expected = -(logits.log_softmax(0).diag() + logits.log_softmax(1).diag()).mean() / 2
    assert contrastive_loss(images, texts, scale, torch.eye(5, dtype=torch.bool)) == pytest.approx(float(expected), rel=1e-5)


def test_contrast_leaves_out_texts_that_are_true_of_other_images():
    images, texts, scale = unit_rows(4, 0), unit_rows(4, 1), torch.tensor(10.0)
    truth = torch.eye(4, dtype=torch.bool)
    truth[0, 2] = True
    logits = scale * texts @ images.T
    loss = contrastive_loss(images, texts, scale, truth)
    remaining = [[j for j in range(4) if (i, j) != (0, 2)] for i in range(4)]
    by_text = [logits[i, i] - logits[i, remaining[i]].logsumexp(0) for i in range(4)]
    by_image = [logits[i, i] - logits[[k for k in range(4) if (k, i) != (0, 2)], i].logsumexp(0) for i in range(4)]
    assert float(loss) == pytest.approx(-float(sum(by_text) + sum(by_image)) / 8, rel=1e-5)


def test_truth_loss_is_least_at_the_smoothed_log_odds():
    smoothing = 0.1
    bound = math.log((1 - smoothing) / smoothing)
    truth, hard = torch.tensor([[True, False, False]]), torch.tensor([[True, True, False]])
    best = torch.tensor([[bound, -bound, -bound]])
    least = truth_loss(best, truth, hard, smoothing)
    for place in range(3):
        for shift in (-0.3, 0.3):
            moved = best.clone()
            moved[0, place] += shift
            assert truth_loss(moved, truth, hard, smoothing) > least


def test_truth_loss_weighs_its_three_groups_alike():
    log_odds = torch.zeros(1, 12, requires_grad=True)
    truth, hard = torch.zeros(1, 12, dtype=torch.bool), torch.zeros(1, 12, dtype=torch.bool)
    truth[0, 0] = True
    hard[0, :3] = True
    truth_loss(log_odds, truth, hard, 0.0).backward()
    pull = log_odds.grad[0]
    assert float(pull[0]) == pytest.approx(-0.5)
    assert float(pull[1:3].sum()) == pytest.approx(0.5)
    assert float(pull[3:].sum()) == pytest.approx(0.5)


def test_truth_loss_without_hard_pairs_is_finite():
    truth = torch.tensor([[True, False]])
    assert torch.isfinite(truth_loss(torch.zeros(1, 2), truth, truth, 0.1))


def test_noun_truth():
    ball, boat = (Target(0, 1, SceneObject(name, "red", "plain", "small", (0, 0, 4, 4))) for name in ("ball", "boat"))
    assert noun_truth(["boat", "ball", "cup"], [ball, boat, ball]).tolist() == [
        [False, True, False],
        [True, False, True],
        [False, False, False],
    ]


@pytest.mark.slow
@pytest.mark.parametrize("train", [train_coca, train_clip])
def test_training_repeats(train, monkeypatch):
    for name, size in (("train_coca.BATCH", 12), ("train_clip.BATCH", 8), ("train_clip.MASKED", 4)):
        monkeypatch.setattr(f"pseudo_ris.lab.{name}", size)
    scenes = build_scene_set("validation", seed=6, count=25, progress=False)
    first, again = (train(scenes, seed=1, steps=2) for _ in range(2))
    other = train(scenes, seed=2, steps=2)
    assert not first.training
    name = "visual.conv1.weight"
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in first.state_dict().items())
    assert not torch.equal(first.state_dict()[name], other.state_dict()[name])
