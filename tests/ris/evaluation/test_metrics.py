"""oIoU, mIoU and P@0.5 to P@0.9, against figures worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pseudo_ris.errors import UserError
from pseudo_ris.ris.evaluation.metrics import LEAST_PIXELS, THRESHOLDS, Overlap, Scores


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


def rela(predictions: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Oracle: sample by sample as ReLA's evaluator counts, with its "no target" output being few pixels."""
    iou_sum = intersections = unions = 0.0
    count = {"TP": 0, "TN": 0, "FP": 0, "FN": 0}
    for predicted, truth in predictions:
        says_none = predicted.sum() < LEAST_PIXELS
        shared, either = (predicted & truth).sum(), (predicted | truth).sum()
        if not truth.any():
            count["TP" if says_none else "FN"] += 1
            iou_sum += says_none
            unions += 0 if says_none else either
        else:
            count["FP" if says_none else "TN"] += 1
            shared = 0 if says_none else shared
            iou_sum += shared / either
            intersections, unions = intersections + shared, unions + either
    return {
        "gIoU": iou_sum / len(predictions),
        "cIoU": intersections / unions,
        "N-acc": count["TP"] / (count["TP"] + count["FN"]),
        "T-acc": count["TN"] / (count["TN"] + count["FP"]),
    }


def square(side: int, left: int = 0) -> np.ndarray:
    mask = np.zeros((40, 60), bool)
    mask[:side, left : left + side] = True
    return mask


def test_grefcocos_figures_by_hand():
    none = square(0)
    overlaps = [
        Overlap.of(square(10), square(10)),  # found: 100 of 100 pixels
        Overlap.of(square(10), square(10, 5)),  # half of it: 50 of 150
        Overlap.of(square(5), square(10)),  # 25 pixels say that there is none: 0 of 100
        Overlap.of(none, none),  # recognised: 1
        Overlap.of(square(7), none),  # 49 pixels, recognised
        Overlap.of(square(8), none),  # answered: 0 of 64
    ]
    named = Scores.of(overlaps, general=True).named
    assert named["gIoU"] == pytest.approx((1 + 1 / 3 + 0 + 1 + 1 + 0) / 6)
    assert named["cIoU"] == pytest.approx(150 / (100 + 150 + 100 + 64))
    assert (named["N-acc"], named["T-acc"]) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert list(named)[-1] == "count" and "gIoU" not in Scores.of(overlaps).named


@pytest.mark.parametrize("seed", range(5))
def test_grefcocos_figures_are_those_of_relas_evaluator(seed):
    random = np.random.default_rng(seed)
    masks = [(square(int(a), int(shift)), square(int(b))) for a, b, shift in random.integers(0, 16, (40, 3)) * (1, 1, 2)]
    masks += [(square(int(a)), square(0)) for a in random.integers(0, 12, 10)]
    named = Scores.of([Overlap.of(*pair) for pair in masks], general=True).named
    assert {name: named[name] for name in ("gIoU", "cIoU", "N-acc", "T-acc")} == pytest.approx(rela(masks))


def test_without_a_sentence_that_lacks_a_target_both_accuracies_are_0_as_in_rela():
    named = Scores.of([Overlap.of(square(10), square(10))], general=True).named
    assert (named["gIoU"], named["cIoU"], named["N-acc"], named["T-acc"]) == (1.0, 1.0, 0.0, 0.0)
