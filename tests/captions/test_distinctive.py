"""The pure functions of one sampling step, by hand-made cases."""

from dataclasses import replace

import pytest
import torch

from pseudo_ris.captions.distinctive import distractor_weights
from pseudo_ris.captions.token_filter import Strategy, choose_support, step_distribution, support_top_k, support_top_p
from pseudo_ris.config import DecodingConfig

END = 4
IS_END = torch.arange(5) == END
PROBABILITIES = torch.tensor([0.05, 0.4, 0.1, 0.25, 0.2])
LOGITS = PROBABILITIES.log()[None]
EVERYTHING = torch.ones(1, 5, dtype=torch.bool)


def tokens(support):
    return support[0].nonzero()[:, 0].tolist()


def test_top_k_takes_ties_in():
    logits = torch.tensor([[3.0, 1.0, 2.0, 2.0, 0.0]] * 3)
    support = support_top_k(logits, torch.tensor([1, 2, 9]))
    assert support.sum(1).tolist() == [1, 3, 5]
    assert tokens(support[1:]) == [0, 2, 3]


@pytest.mark.parametrize(
    ("p", "expected"), [(0.3, [1]), (0.41, [1, 3]), (0.7, [1, 3, 4]), (0.93, [1, 2, 3, 4]), (1.0, [0, 1, 2, 3, 4])]
)
def test_top_p_takes_the_fewest_tokens_that_reach_p(p, expected):
    assert tokens(support_top_p(LOGITS, torch.tensor([p]))) == expected


def test_each_row_has_its_own_strategy():
    for rule, values, sizes in (("top_p", (0.3, 0.7, 0.5), [1, 3, 2]), ("top_k", (3, 1, 2), [3, 1, 2])):
        support = choose_support(LOGITS.expand(3, -1), [Strategy(rule, value) for value in values], 0)
        assert support.sum(1).tolist() == sizes


def test_implausible_tokens_never_enter_but_the_likeliest_stays():
    for strategy in (Strategy("top_k", 5), Strategy("top_p", 0.99)):
        assert tokens(choose_support(LOGITS, [strategy], 0.2 - 1e-6)) == [1, 3, 4]
        assert tokens(choose_support(LOGITS, [strategy], 0.99)) == [1]


def test_calibration_works_on_raw_logits_and_leaves_the_end_token_alone():
    opposition = torch.tensor([[0.0, 2.0, 0.0, 0.0, 5.0]])
    q = step_distribution(LOGITS, opposition, EVERYTHING, IS_END)
    weights = PROBABILITIES * torch.exp(-opposition[0])
    assert q[0, :END].tolist() == pytest.approx((weights / weights.sum())[:END].tolist())
    assert q[0, END].item() == pytest.approx(0.2)
    assert q.sum() > 1.1


def test_end_token_is_zero_outside_the_support_and_renormalised_inside():
    opposition = torch.tensor([[1.0, 2.0, 0.0, 0.0, 5.0]])
    outside = torch.tensor([[False, True, True, False, False]])
    assert step_distribution(LOGITS, opposition, outside, IS_END)[0, END] == 0
    inside = torch.tensor([[False, True, False, False, True]])
    assert step_distribution(LOGITS, opposition, inside, IS_END)[0, END].item() == pytest.approx(0.2 / 0.6)


def test_without_opposition_it_is_plain_sampling():
    support = torch.tensor([[False, True, True, False, True]])
    q = step_distribution(LOGITS, torch.zeros(1, 5), support, IS_END)
    assert q[0].tolist() == pytest.approx([0, 0.4 / 0.7, 0.1 / 0.7, 0, 0.2 / 0.7])


def test_vanished_weights_fall_back_to_the_target():
    # Only the end token's calibrated weight survives, and that one is replaced by a probability that underflows.
    logits = torch.tensor([[300.0, 299.0, 0.0, 0.0, 0.0]])
    opposition = torch.tensor([[900.0, 900.0, 900.0, 900.0, 0.0]])
    q = step_distribution(logits, opposition, EVERYTHING, IS_END)
    assert q[0].tolist() == pytest.approx(logits[0].softmax(0).tolist())
    assert q[0, 0] > 0.7


SIMILARITY = torch.tensor([[1.0, 0.2, 0.8, -0.5], [0.2, 1.0, 0.3, 0.3], [0.8, 0.3, 1.0, 0.0], [-0.5, 0.3, 0.0, 1.0]])
MEAN = DecodingConfig(calibration="mean", calibration_weight=1.0)


def test_mean_calibration():
    weights = distractor_weights(SIMILARITY, replace(MEAN, calibration_weight=0.75))
    assert weights[0].tolist() == pytest.approx([0, 0.05, 0.2, -0.125])


def test_softmax_calibration():
    weights = distractor_weights(SIMILARITY, DecodingConfig(calibration="softmax", calibration_weight=0.01))
    assert weights.sum(1).tolist() == pytest.approx([0.01] * 4)
    assert (weights[0, 2] / weights[0, 1]).item() == pytest.approx(torch.tensor(0.6).exp().item())


def test_most_similar_distractors_are_kept():
    weights = distractor_weights(SIMILARITY, replace(MEAN, max_distractors=2))
    assert weights[0].tolist() == pytest.approx([0, 0.1, 0.4, 0])
    assert weights[1].tolist() == pytest.approx([0, 0, 0.15, 0.15])


@pytest.mark.parametrize(
    "settings",
    [{"calibration": "none"}, {"max_distractors": 2, "distractor_overflow": "skip"}, {"max_distractors": 0}],
    ids=["none", "skip", "zero"],
)
def test_nobody_is_asked(settings):
    assert not distractor_weights(SIMILARITY, replace(MEAN, **settings)).any()


def test_as_many_distractors_as_allowed_are_not_skipped():
    assert distractor_weights(SIMILARITY, replace(MEAN, max_distractors=3, distractor_overflow="skip")).any()


def test_a_single_mask_has_no_distractor():
    assert distractor_weights(torch.ones(1, 1), MEAN).tolist() == [[0]]
