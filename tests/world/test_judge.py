from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest

from pseudo_ris.pairs.selection import kept_candidates
from pseudo_ris.records import CaptionRecord, MaskCaptions
from pseudo_ris.world.judge import (
    CaptionCounts,
    Counts,
    GroupCounts,
    MaskCounts,
    distinguishable,
    iou_matrix,
    judge_captions,
    judge_groups,
    judge_masks,
    judge_pairs,
    owners_of,
    total,
)
from pseudo_ris.world.scenes import CATEGORIES, Scene, SceneObject

FIRST, SECOND = CATEGORIES[:2]
BOXES = [(0, 0, 20, 20), (40, 40, 60, 60), (80, 0, 120, 40)]


@pytest.fixture
def scene():
    """A small red plain FIRST, a large red plain FIRST, a large blue striped SECOND."""
    words = [(FIRST, "red", "plain", "small"), (FIRST, "red", "plain", "large"), (SECOND, "blue", "striped", "large")]
    labels = np.zeros((128, 128), np.uint8)
    for label, (x0, y0, x1, y1) in enumerate(BOXES, start=1):
        labels[y0:y1, x0:x1] = label
    objects = tuple(SceneObject(*said, box) for said, box in zip(words, BOXES, strict=True))
    return Scene(np.zeros((128, 128, 3), np.uint8), labels, objects)


def box_mask(x0, y0, x1, y1):
    mask = np.zeros((128, 128), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def test_a_caption_is_true_unique_or_both_of_its_own_object(scene):
    judged = [
        judge_captions(scene, [0], [[text]])
        for text in (f"a red {FIRST}", f"a small red {FIRST}", f"a large {FIRST}", f"a {SECOND}", f"a green {FIRST}", "a")
    ]
    assert [(c.true, c.unique, c.distinctive) for c in judged] == [
        (1, 0, 0),  # also of the second object
        (1, 1, 1),
        (0, 0, 0),  # of the second object only
        (0, 0, 0),  # of the third
        (0, 1, 0),  # of none, so of no other
        (0, 1, 0),  # ungrammatical
    ]


def test_a_mask_of_no_object_has_no_true_caption(scene):
    counts = judge_captions(scene, [None], [[f"a {SECOND}", "nonsense"]])
    assert (counts.captions, counts.true, counts.unique, counts.distinctive) == (2, 0, 1, 0)
    assert (counts.objects, counts.covered, counts.told_apart) == (3, 0, 0)


def test_objects_are_counted_once_however_many_masks_and_captions_they_have(scene):
    counts = judge_captions(
        scene, [0, 0, 2], [[f"a small {FIRST}", f"a red {FIRST}"], [f"a small {FIRST}"], [f"a red {SECOND}"]]
    )
    assert (counts.captions, counts.objects, counts.covered, counts.told_apart) == (4, 3, 2, 1)
    assert (counts.covered_share, counts.told_apart_share) == (2 / 3, 1 / 3)


def test_exact_masks_find_every_object(scene):
    counts = judge_masks(scene, scene.masks)
    assert counts == MaskCounts(objects=3, masks=3, owned=3, found=3, found_well=3, iou=3.0)
    assert owners_of(scene, scene.masks[[2, 0]]) == [2, 0]


def test_iou_decides_between_good_matched_and_unmatched_masks(scene):
    masks = np.stack(
        [
            box_mask(0, 0, 20, 15),  # 0.75 of the first object
            box_mask(40, 40, 60, 50),  # 0.5 of the second
            box_mask(80, 0, 120, 19),  # below half of the third
            box_mask(0, 0, 20, 20),  # the first again, exactly
            box_mask(100, 100, 110, 110),
        ]
    )
    assert owners_of(scene, masks) == [0, 1, None, 0, None]
    counts = judge_masks(scene, masks)
    assert counts == MaskCounts(objects=3, masks=5, owned=3, found=2, found_well=1, iou=1.5)
    assert (counts.recall, counts.precision, counts.mean_iou) == (1 / 3, 3 / 5, 0.75)


def test_expressions_of_several_mean_exactly_their_masks_objects_and_those_of_none_nothing(scene):
    def several(text, owners, targets):
        return judge_groups(scene, owners, [(text, targets)], []).several_right

    two = f"the two {FIRST}s"
    assert several(two, [1, 0], (0, 1)) == 1
    assert several(two, [2, 0, 1], (1, 2)) == 1
    assert several(two, [0, 2], (0, 1)) == 0, "another object"
    assert several(two, [0, None], (0, 1)) == 0, "a mask of no object"
    assert several(two, [0, 0], (0, 1)) == 0, "two masks of one object"
    assert several(f"the two large {FIRST}s", [0, 1], (0, 1)) == 0
    none = [f"the blue {FIRST}", f"the red {FIRST}", "the hm", f"the red {SECOND}"]
    assert judge_groups(scene, [], [], none) == GroupCounts(0, 0, 4, 2)


def test_no_masks_find_nothing(scene):
    nothing = np.zeros((0, 128, 128), bool)
    assert judge_masks(scene, nothing) == MaskCounts(objects=3)
    assert owners_of(scene, nothing) == []
    assert np.isnan(judge_masks(scene, nothing).mean_iou)


def test_iou_matrix_equals_pixel_counting():
    rng = np.random.default_rng(0)
    left, right = rng.random((3, 9, 7)) < 0.4, rng.random((4, 9, 7)) < 0.6
    left[1] = False
    slow = [[(a & b).sum() / max(1, (a | b).sum()) for b in right] for a in left]
    np.testing.assert_allclose(iou_matrix(left, right), slow)


def test_distinguishable_objects_differ_in_some_word(scene):
    assert distinguishable(scene) == 3
    twins = Scene(scene.image, scene.label_map, (scene.objects[0], scene.objects[0], scene.objects[2]))
    assert distinguishable(twins) == 1


def captions(*pairs, one_mask=False):
    records = (CaptionRecord(text, "masked", "beam", "", 1.0, 1.0, 1.0, 1.0, doc, None) for text, doc in pairs)
    return MaskCaptions(0, one_mask, tuple(records))


def keep(threshold):
    return partial(kept_candidates, threshold=threshold)


def test_pairs_are_judged_before_and_after_the_filter(scene):
    first = captions((f"a red {FIRST}", 1.0), (f"a small {FIRST}", 1.3))
    third = captions((f"a red {SECOND}", 0.7))
    counts = judge_pairs(scene, scene.masks[[0, 2]], [first, third], keep(1.0))
    assert counts.masks == MaskCounts(objects=3, masks=2, owned=2, found=2, found_well=2, iou=2.0)
    assert counts.candidates == CaptionCounts(3, true=2, unique=2, distinctive=1, objects=3, covered=2, told_apart=1)
    assert counts.kept == CaptionCounts(1, true=1, unique=1, distinctive=1, objects=3, covered=1, told_apart=1)


def test_an_only_mask_keeps_the_better_half(scene):
    only = captions((f"a {SECOND}", 20.0), (f"a blue {SECOND}", 22.0), one_mask=True)
    counts = judge_pairs(scene, scene.masks[[2]], [only], keep(30.0))
    assert (counts.candidates.captions, counts.kept.captions, counts.kept.distinctive) == (2, 1, 1)


def test_counts_add_up_over_scenes(scene):
    one = judge_pairs(scene, scene.masks, [captions((f"a {SECOND}", 2.0))] * 3, keep(1.0))
    three = total([one, one, one])
    assert three.kept.captions == 3 * one.kept.captions == 9
    assert three.masks.iou == 9.0
    assert three.candidates.distinctive_share == one.candidates.distinctive_share == pytest.approx(1 / 3)


def test_tuples_of_counts_add_by_place():
    @dataclass(frozen=True)
    class Sweep(Counts):
        kept: tuple[MaskCounts, ...]

    added = Sweep((MaskCounts(1), MaskCounts(2))) + Sweep((MaskCounts(10), MaskCounts(20)))
    assert added == Sweep((MaskCounts(11), MaskCounts(22)))
