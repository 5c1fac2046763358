"""What masks are called."""

from __future__ import annotations

import numpy as np
import pytest

from pseudo_ris.distinctiveness.naming import Naming, word_agreement


def test_shares_and_recognition():
    nouns = [["cup", "Cup", "mug", "cup"], ["dog"]]
    logits = np.array([[2.0, 2.0, 3.0, 2.0, 0.0], [1.0, 1.0, 0.0, 1.0, 5.0]])
    naming = Naming.of(nouns, logits)
    assert naming.nouns == ("cup", "mug", "dog")
    np.testing.assert_allclose(naming.agreement, [[0.75, 0.25, 0], [0, 0, 1]])
    np.testing.assert_allclose(naming.recognition, np.exp([[-1.0, 0, -3], [-4, -5, 0]]))


def test_masks_without_candidates_have_no_names():
    naming = Naming.of([[], ["cup"]], np.array([[1.0], [1.0]]))
    assert naming.agreement.tolist() == [[0.0], [1.0]]
    assert Naming.of([[]], np.zeros((1, 0))).agreement.shape == (1, 0)


def test_word_agreement_is_the_rarest_word_s_share():
    texts = ["a red cup", "the red cup on the table", "a big red cup", "cup"]
    assert word_agreement(texts, ["cup"] * 4) == pytest.approx([0.75, 0.25, 0.25, 1.0])
