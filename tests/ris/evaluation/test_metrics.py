"""oIoU, mIoU and P@0.5 to P@0.9, against figures worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pseudo_ris.errors import UserError
from pseudo_ris.ris.evaluation.metrics import THRESHOLDS, Overlap, Scores


def of(*pairs: tuple[int, int]) -> Scores:
    return Scores.of([Overlap(*pair) for pair in pairs])


def test_overlap_counts_shared_pixels_and_those_of_either():
    predicted = np.array([[1, 1, 0], [1, 0, 0]], bool)
    truth = np.array([[0, 1, 1], [1, 0, 0]], bool)
    assert Overlap.of(predicted, truth) == Overlap(2, 4)
    assert Overlap.of(predicted, truth).iou == 0.5


def test_oiou_is_the_sum_of_intersections_over_the_sum_of_unions():
    # 1/2, 90/100 and 0/8: (1 + 90 + 0) / (2 + 100 + 8)
    assert of((1, 2), (90, 100), (0, 8)).oiou == 91 / 110


def test_miou_is_the_mean_of_the_ious():
    # (0.5 + 0.9 + 0) / 3: the small object counts as much as the large one
    assert of((1, 2), (90, 100), (0, 8)).miou == pytest.approx(1.4 / 3, abs=1e-15)


def test_precision_is_the_share_whose_iou_is_at_least_the_threshold():
    scores = of((1, 2), (65, 100), (7, 10), (89, 100), (9, 10), (0, 5), (1, 1), (1, 4))
    assert scores.precision == (6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8)
    assert scores.count == 8


@pytest.mark.parametrize("tenths", range(5, 10))
@pytest.mark.parametrize("scale", [1, 3, 7, 1013])
def test_an_iou_of_exactly_a_threshold_reaches_it(tenths, scale):
    scores = of((tenths * scale, 10 * scale))
    assert scores.precision == tuple(float(threshold <= tenths / 10) for threshold in THRESHOLDS)
    below = of((tenths * scale * 1000 - 1, 10 * scale * 1000))
    assert sum(below.precision) == sum(scores.precision) - 1


def test_two_empty_masks_count_as_a_miss():
    empty = np.zeros((4, 4), bool)
    assert Overlap.of(empty, empty).iou == 0.0
    assert of((0, 0), (3, 4)) == Scores(oiou=3 / 4, miou=3 / 8, precision=(0.5, 0.5, 0.5, 0.0, 0.0), count=2)
    assert of((0, 0)).oiou == 0.0


def test_figures_do_not_depend_on_the_order():
    random = np.random.default_rng(0)
    pairs = [(int(random.integers(0, union + 1)), int(union)) for union in random.integers(1, 10**6, 1000)]
    assert of(*pairs) == of(*reversed(pairs)) == of(*sorted(pairs))


def test_figures_are_named():
    assert of((3, 4)).named == {
        "oIoU": 0.75,
        "mIoU": 0.75,
        "P@0.5": 1.0,
        "P@0.6": 1.0,
        "P@0.7": 1.0,
        "P@0.8": 0.0,
        "P@0.9": 0.0,
        "count": 1,
    }


def test_no_predictions_have_no_figures():
    with pytest.raises(UserError, match="no expression to evaluate"):
        of()
