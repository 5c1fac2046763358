"""Expressions of several masks and of none: written where the candidates decide, and nowhere else."""

from __future__ import annotations

import pytest

from pseudo_ris.distinctiveness.groups import GroupExpression, GroupRules, NamedMask, attributes_of, group_expressions
from pseudo_ris.distinctiveness.nouns import head_noun_by_rules


def mask(seg_id: int, *texts: str, recognition: float = 1.0) -> NamedMask:
    nouns = tuple(map(head_noun_by_rules, texts))
    return NamedMask(seg_id, texts, nouns, (recognition,) * len(texts))


def several(*masks: NamedMask) -> dict[str, tuple[int, ...]]:
    return {each.text: each.targets for each in group_expressions(masks) if each.targets}


def none(*masks: NamedMask) -> list[str]:
    return [each.text for each in group_expressions(masks) if not each.targets]


RED_CUP = ("a red cup", "the small red cup", "a red striped cup on the ground")
BLUE_CUP = ("a blue cup", "the small blue cup", "the blue cup")
RED_BOX = ("a red box", "the red box", "a small red box")


def test_masks_of_one_noun_and_of_one_attribute_are_counted():
    found = several(mask(4, *RED_CUP), mask(7, *BLUE_CUP), mask(9, *RED_CUP), mask(2, *RED_BOX))
    assert found == {
        "the three cups": (4, 7, 9),
        "the three small cups": (4, 7, 9),
        "the two red cups": (4, 9),
        "the two striped cups": (4, 9),
    }


def test_an_attribute_of_another_thing_that_no_such_thing_has_means_none():
    assert none(mask(0, *BLUE_CUP), mask(1, *RED_BOX)) == ["the red cup", "the blue box"]
    assert none(mask(0, *BLUE_CUP), mask(1, *RED_CUP), mask(2, *RED_BOX)) == ["the blue box", "the striped box"]


def test_one_mask_alone_has_no_such_expressions():
    assert group_expressions([mask(0, *RED_CUP)]) == []
    assert group_expressions([]) == []


def test_nothing_is_written_for_a_noun_that_a_mask_may_but_need_not_have():
    doubtful = mask(2, "a red cup", *["a red box"] * 9)
    assert "the two cups" in several(mask(0, *RED_CUP), mask(1, *BLUE_CUP))
    assert not [text for text in several(mask(0, *RED_CUP), mask(1, *BLUE_CUP), doubtful) if "cup" in text]
    assert not [text for text in none(mask(1, *BLUE_CUP), doubtful) if "cup" in text]


def test_a_noun_that_clip_does_not_recognise_is_not_sure():
    assert several(mask(0, *RED_CUP), mask(1, *BLUE_CUP, recognition=0.2)) == {}


def test_an_attribute_that_a_mask_may_have_is_used_neither_way():
    perhaps_red = mask(1, "a red cup", *["a blue cup"] * 9)
    assert "the two red cups" not in several(mask(0, *RED_CUP), perhaps_red, mask(2, *RED_CUP))
    assert "the red cup" not in none(perhaps_red, mask(3, *RED_BOX))


def test_words_elsewhere_in_a_sentence_make_an_attribute_possible_but_not_sure():
    beside = mask(1, *["a blue cup beside a red box"] * 3)
    found = several(mask(0, *RED_CUP), beside, mask(2, *BLUE_CUP))
    assert found == {"the three cups": (0, 1, 2), "the two small cups": (0, 2), "the two blue cups": (1, 2)}
    assert "the red cup" not in none(beside, mask(3, *RED_BOX))


def test_more_masks_than_allowed_are_not_counted():
    masks = [mask(number, *RED_CUP) for number in range(4)]
    assert several(*masks) == {}
    assert GroupExpression("the four cups", (0, 1, 2, 3)) in group_expressions(masks, GroupRules(largest=4))


def test_crowded_images_have_expressions_of_none_only():
    masks = [mask(0, *RED_CUP), mask(1, *RED_CUP), *(mask(number, *RED_BOX) for number in range(2, 6))]
    assert several(*masks) == {}
    assert none(*masks) == ["the striped box"]
    assert GroupExpression("the two cups", (0, 1)) in group_expressions(masks, GroupRules(crowded=6))


def test_irregular_plurals_are_right_and_plurals_are_left_out():
    child, fish = ("a child", "the small child"), ("a fish", "the small fish")
    assert "the two children" in several(mask(0, *child), mask(1, *child))
    assert "people" not in " ".join(several(mask(0, "red people"), mask(1, "red people")))
    assert several(mask(0, *fish), mask(1, *fish)) == {}  # "fish" may be a plural


@pytest.mark.parametrize(
    ("text", "noun", "words"),
    [
        ("the small red cup on the table", "cup", ["small", "red"]),
        ("a photo of a Red cup", "cup", ["red"]),
        ("two red cups", "cups", ["red"]),
        ("cup", "cup", []),
        ("a cup", "mug", []),
        ("a cup that is red", "cup", []),
    ],
)
def test_attributes_stand_right_before_the_noun(text, noun, words):
    assert attributes_of(text, noun) == words
