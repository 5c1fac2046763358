"""Matching against the obvious double loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pseudo_ris.config import MatchingConfig
from pseudo_ris.masks.matching import SAME_OBJECT_IOU, Match, match_masks


def slow_iou(one, other):
    union = (one | other).sum()
    return (one & other).sum() / union if union else 0.0


def slow_choice(cutler, sams, config):
    best, best_key = None, (0, 0)
    for index, sam in enumerate(sams):
        overlap, iou = (cutler & sam).sum(), slow_iou(cutler, sam)
        key = (overlap, iou) if config.rule == "intersection" else (iou, overlap)
        if config.ties == "first":
            key = (key[0], 0)
        if overlap and key > best_key:
            best, best_key = index, key
    return 0 if best is None and config.no_overlap == "first" and len(sams) else best


def slow_match(cutlers, sams, config):
    deduplicate, min_iou = config.deduplicate, config.min_iou
    choices = {i: slow_choice(cutler, sams, config) for i, cutler in enumerate(cutlers)}
    for i, choice in choices.items():
        if choice is not None and slow_iou(cutlers[i], sams[choice]) < min_iou:
            choices[i] = None
    free = {i: None for i, choice in choices.items() if choice is None}
    wanted = {i: choice for i, choice in choices.items() if choice is not None}
    if not deduplicate:
        return {**free, **wanted}
    taken = {}
    enough = max(SAME_OBJECT_IOU, min_iou)
    second_round = {(i, j) for i in choices for j in range(len(sams)) if slow_iou(cutlers[i], sams[j]) >= enough}
    for pairs in (set(wanted.items()), second_round):
        while pairs:
            best = min(pairs, key=lambda pair: (-slow_iou(cutlers[pair[0]], sams[pair[1]]), pair))
            pairs.remove(best)
            if best[0] in taken:
                continue
            if any(slow_iou(sams[best[1]], sams[other]) >= SAME_OBJECT_IOU for other in taken.values()):
                continue
            taken[best[0]] = best[1]
    shown = [sams[j] for j in taken.values()]
    kept = {}
    for i in sorted(set(free) - set(taken)):
        if all(slow_iou(cutlers[i], mask) < SAME_OBJECT_IOU for mask in shown):
            kept[i] = None
            shown.append(cutlers[i])
    return {**kept, **taken}


def box_mask(x0, y0, x1, y1, shape=(12, 14)):
    mask = np.zeros(shape, bool)
    mask[y0:y1, x0:x1] = True
    return mask


boxes = st.tuples(st.integers(0, 13), st.integers(0, 11), st.integers(0, 14), st.integers(0, 12))
configs = st.builds(
    MatchingConfig,
    st.sampled_from(["intersection", "iou"]),
    st.booleans(),
    st.sampled_from([0.0, 0.3, 0.5, 0.7]),
    st.sampled_from(["other_measure", "first"]),
    st.sampled_from(["keep", "first"]),
)
masks = st.lists(boxes, max_size=6).map(lambda found: np.array([box_mask(*box) for box in found], bool).reshape(-1, 12, 14))


@settings(max_examples=150, deadline=None)
@given(masks, masks, configs)
def test_equals_double_loops(cutlers, sams, config):
    matches = match_masks(cutlers, sams, config)
    assert {match.cutler_index: match.sam_index for match in matches} == slow_match(cutlers, sams, config)
    assert [match.cutler_index for match in matches] == sorted(match.cutler_index for match in matches)
    for match in matches:
        expected = 0.0 if match.sam_index is None else slow_iou(cutlers[match.cutler_index], sams[match.sam_index])
        assert match.iou == pytest.approx(expected)


@settings(max_examples=60, deadline=None)
@given(masks, masks, st.sampled_from(["intersection", "iou"]))
def test_deduplicated_results_differ(cutlers, sams, rule):
    matches = match_masks(cutlers, sams, MatchingConfig(rule, True, 0.0))
    chosen = [match.sam_index for match in matches if match.sam_index is not None]
    for position, one in enumerate(chosen):
        assert all(slow_iou(sams[one], sams[other]) < SAME_OBJECT_IOU for other in chosen[:position])


def test_background_wins_by_intersection_only():
    cutler = box_mask(2, 2, 6, 6)
    background, drawn = np.ones((12, 14), bool), box_mask(2, 2, 6, 5)
    sams = np.stack([background, drawn])
    assert match_masks(cutler[None], sams, MatchingConfig("intersection", False, 0.0))[0].sam_index == 0
    assert match_masks(cutler[None], sams, MatchingConfig("iou", False, 0.0)) == (Match(0, 1, 0.75),)


def test_contested_mask_goes_to_the_best_fit_and_the_duplicate_is_dropped():
    cutlers = np.stack([box_mask(0, 0, 8, 6), box_mask(0, 0, 8, 8)])
    sams = box_mask(0, 0, 8, 8)[None]
    assert [match.sam_index for match in match_masks(cutlers, sams, MatchingConfig("iou", False, 0.0))] == [0, 0]
    assert match_masks(cutlers, sams, MatchingConfig("iou", True, 0.0)) == (Match(1, 0, 1.0),)


def test_a_refused_part_takes_its_own_mask():
    whole, part = box_mask(0, 0, 10, 10), box_mask(0, 0, 4, 4)
    cutlers, sams = np.stack([part, whole]), np.stack([whole, box_mask(0, 0, 4, 3)])
    matches = match_masks(cutlers, sams, MatchingConfig("intersection", True, 0.0))
    assert [(match.cutler_index, match.sam_index) for match in matches] == [(0, 1), (1, 0)]


def test_a_near_copy_of_a_taken_mask_does_not_save_a_duplicate():
    cutlers = np.stack([box_mask(0, 0, 10, 10), box_mask(0, 0, 10, 9)])
    sams = np.stack([box_mask(0, 0, 10, 10), box_mask(0, 0, 10, 8)])
    assert match_masks(cutlers, sams, MatchingConfig("iou", True, 0.0)) == (Match(0, 0, 1.0),)


def test_without_overlap_the_cutler_mask_stays():
    cutlers = np.stack([box_mask(0, 0, 3, 3), np.zeros((12, 14), bool)])
    for sams in (box_mask(5, 5, 9, 9)[None], np.zeros((0, 12, 14), bool)):
        assert match_masks(cutlers, sams, MatchingConfig("iou", True, 0.0)) == (Match(0, None, 0.0), Match(1, None, 0.0))


def test_the_release_takes_the_first_of_equals_and_mask_0_where_nothing_overlaps():
    cutlers = np.stack([box_mask(0, 0, 3, 3), box_mask(9, 9, 12, 12)])
    sams = np.stack([box_mask(0, 0, 8, 8), box_mask(0, 0, 4, 4)])
    ours, release = (MatchingConfig("intersection", False, 0.0, *rest) for rest in ((), ("first", "first")))
    assert [match.sam_index for match in match_masks(cutlers, sams, ours)] == [1, None]
    assert match_masks(cutlers, sams, release) == (Match(0, 0, 9 / 64), Match(1, 0, 0.0))
    assert [match.sam_index for match in match_masks(cutlers, sams[:0], release)] == [None, None]


@pytest.mark.parametrize(
    ("cutlers", "sams", "message"),
    [
        (np.zeros((1, 4, 4), bool), np.zeros((1, 4, 5), bool), "different images"),
        (np.zeros((1, 4, 4), np.uint8), np.zeros((1, 4, 4), bool), "cutler_masks: expected bool"),
        (np.zeros((1, 4, 4), bool), np.zeros((4, 4), bool), "sam_masks: expected bool"),
    ],
)
def test_rejects_what_it_cannot_match(cutlers, sams, message):
    with pytest.raises(ValueError, match=message):
        match_masks(cutlers, sams, MatchingConfig("iou", True, 0.0))
