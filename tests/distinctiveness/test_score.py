import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pseudo_ris.captions.crops import cut_crops
from pseudo_ris.config import CropConfig, ScoringConfig
from pseudo_ris.distinctiveness.nouns import RuleNounFinder
from pseudo_ris.distinctiveness.score import distinctiveness_scores, score_candidates
from pseudo_ris.errors import BadInputError
from pseudo_ris.pairs.selection import kept_candidates
from pseudo_ris.records import Candidate, CaptionRecord, MaskCaptions


def slow_scores(m, b, i, t, floor):
    """One candidate at a time, as the definitions are written."""
    bound = (lambda value: max(value, floor)) if floor > 0 else (lambda value: value)
    others = [j for j in range(len(m)) if j != i]
    correctness = bound(m[i][t])
    if not others:
        return 1.0, correctness, correctness, -1
    uniqueness = bound(b[i][t]) / max(bound(b[j][t]) for j in others)
    products = {j: bound(m[j][t]) * bound(b[j][t]) for j in others}
    rival = min(j for j in others if products[j] == max(products.values()))
    return uniqueness, correctness, bound(m[i][t]) * bound(b[i][t]) / products[rival], rival


@given(st.integers(1, 6), st.integers(0, 9), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1e-3, 0.5]), st.booleans())
def test_equals_the_definitions_one_candidate_at_a_time(masks, count, seed, floor, coarse):
    rng = np.random.default_rng(seed)
    m, b = rng.normal(1.0, 1.0, (2, masks, count))
    if coarse:  # rounding makes ties
        m, b = np.round(m * 2) / 2 + 0.25, np.round(b * 2) / 2 + 0.25
    owner = rng.integers(0, masks, count)
    scores = distinctiveness_scores(m, b, owner, floor)
    for t, i in enumerate(owner):
        expected = slow_scores(m.tolist(), b.tolist(), i, t, floor)
        assert (scores.uniqueness[t], scores.correctness[t], scores.doc[t], scores.rival[t]) == pytest.approx(expected)
        assert (scores.masked[t], scores.crop[t]) == (m[i, t], b[i, t])


def test_one_mask_scores_its_correctness():
    scores = distinctiveness_scores(np.array([[3.0, 4.0]]), np.array([[5.0, 6.0]]), np.array([0, 0]), 1e-3)
    np.testing.assert_array_equal(scores.doc, [3.0, 4.0])
    np.testing.assert_array_equal(scores.uniqueness, [1.0, 1.0])
    np.testing.assert_array_equal(scores.rival, [-1, -1])


def test_equal_masks_tie_at_one_and_name_the_first_rival():
    scores = distinctiveness_scores(np.full((3, 1), 2.0), np.full((3, 1), 7.0), np.array([1]), 1e-3)
    assert (scores.doc[0], scores.uniqueness[0], scores.rival[0]) == (1.0, 1.0, 0)


def test_floor_ranks_a_worse_fit_lower_where_the_release_ranks_it_higher():
    m, b = np.array([[-2.0], [1.0]]), np.array([[-2.0], [1.0]])
    assert distinctiveness_scores(m, b, np.array([0]), 0.0).doc[0] == 4.0
    assert distinctiveness_scores(m, b, np.array([0]), 1e-3).doc[0] == pytest.approx(1e-6)


def test_no_candidates_give_empty_scores():
    assert distinctiveness_scores(np.zeros((4, 0)), np.zeros((4, 0)), np.zeros(0, int), 1e-3).doc.shape == (0,)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_refused(bad):
    good = np.ones((2, 2))
    broken = good.copy()
    broken[1, 0] = bad
    with pytest.raises(BadInputError, match="not finite"):
        distinctiveness_scores(broken, good, np.array([0, 1]), 1e-3)
    with pytest.raises(BadInputError, match="not finite"):
        distinctiveness_scores(good, broken, np.array([0, 1]), 1e-3)


def test_a_zero_rival_without_a_floor_is_refused():
    with pytest.raises(BadInputError, match="score_floor"):
        distinctiveness_scores(np.array([[1.0], [0.0]]), np.ones((2, 1)), np.array([0]), 0.0)


SMALL_LOGITS = ScoringConfig(score_floor=1e-3)  # the default floor is made for CLIP, whose logits are near 20


class ColourScorer:
    """Embeds a crop as the mean of its colours, a text as the axis of the colour it names; scores are easy to foresee."""

    image_size = 8
    texts = 0

    def embed_images(self, crops):
        return crops.mean(dim=(2, 3)) + 3

    def embed_texts(self, texts):
        self.texts += len(texts)
        named = [[float(colour in text) for colour in ("red", "green", "blue")] for text in texts]
        return torch.tensor(named).reshape(-1, 3) + 0.1

    def logits(self, images, texts):
        return images @ texts.T


def candidates_of(*texts):
    return [Candidate(text, "masked", "beam") for text in texts]


def test_candidates_are_scored_against_the_other_masks_in_order():
    image = np.zeros((16, 32, 3), np.uint8)
    image[:, :16, 0] = 255
    image[:, 16:, 2] = 255
    masks = np.zeros((2, 16, 32), bool)
    masks[0, 2:14, 2:14] = True
    masks[1, 2:14, 18:30] = True
    mine, theirs = candidates_of("a red thing", "a blue thing"), candidates_of("a blue thing")
    first, second = score_candidates(
        ColourScorer(), RuleNounFinder(), image, masks, [3, 7], [mine, theirs], SMALL_LOGITS, CropConfig()
    )
    assert (first.seg_id, second.seg_id, first.one_mask) == (3, 7, False)
    right, wrong = first.candidates
    assert (right.text, right.noun, right.rival) == ("a red thing", "thing", 7)
    assert right.doc > 1 > wrong.doc
    assert second.candidates[0].doc == pytest.approx(1 / wrong.doc)
    assert second.candidates[0].rival == 3


def test_masked_score_is_of_the_noun_on_the_masked_crop_and_crop_score_of_the_sentence():
    image = np.full((20, 20, 3), 0, np.uint8)
    image[5:15, 5:15, 1] = 255
    masks = np.zeros((1, 20, 20), bool)
    masks[0, 5:15, 5:15] = True
    scorer = ColourScorer()
    (only,) = score_candidates(
        scorer, RuleNounFinder(), image, masks, [0], [candidates_of("a green one")], SMALL_LOGITS, CropConfig()
    )
    (record,) = only.candidates
    assert only.one_mask and record.rival is None and record.doc == record.masked_score
    masked, wide = (scorer.embed_images(cut_crops(image, masks, name, 8, CropConfig())) for name in ("masked", "image_1.2"))
    assert record.masked_score == pytest.approx(float(scorer.logits(masked, scorer.embed_texts(["a photo of a one"]))))
    assert record.crop_score == pytest.approx(float(scorer.logits(wide, scorer.embed_texts(["a green one"]))))


def test_no_masks_give_no_rows():
    masks = np.zeros((0, 8, 8), bool)
    image = np.zeros((8, 8, 3), np.uint8)
    assert score_candidates(ColourScorer(), RuleNounFinder(), image, masks, [], [], ScoringConfig(), CropConfig()) == []


def test_lists_of_different_lengths_are_refused():
    masks = np.ones((1, 8, 8), bool)
    image = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match="1 masks, 1 seg ids and 0 lists"):
        score_candidates(ColourScorer(), RuleNounFinder(), image, masks, [0], [], ScoringConfig(), CropConfig())


def captions_with(one_mask, *docs):
    records = [CaptionRecord(str(doc), "masked", "beam", "", 1.0, 1.0, 1.0, 1.0, doc, None) for doc in docs]
    return MaskCaptions(0, one_mask, tuple(records))


@pytest.mark.parametrize(
    ("one_mask", "docs", "threshold", "kept"),
    [
        (False, [0.9, 1.0, 1.1, 2.0], 1.0, [1.1, 2.0]),
        (False, [0.9], 1.0, []),
        (True, [3.0, 9.0, 5.0, 7.0], 100.0, [9.0, 7.0]),
        (True, [3.0, 9.0, 5.0], 0.0, [9.0, 5.0]),
        (True, [], 0.0, []),
    ],
)
def test_kept_are_those_above_the_threshold_or_the_better_half_of_an_only_mask(one_mask, docs, threshold, kept):
    assert [record.doc for record in kept_candidates(captions_with(one_mask, *docs), threshold)] == kept
