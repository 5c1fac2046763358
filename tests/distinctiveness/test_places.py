"""Expressions with place words, against the grammar of drawn scenes and planted cases."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pseudo_ris.config import PlaceConfig
from pseudo_ris.distinctiveness.groups import NamedMask
from pseudo_ris.distinctiveness.naming import Naming
from pseudo_ris.distinctiveness.places import FORMS, place_candidates
from pseudo_ris.world.grammar import referents
from pseudo_ris.world.scenes import SIZE, Scene, SceneObject

ALL_FORMS = PlaceConfig(forms=tuple(FORMS))
FOUR_FORMS = PlaceConfig(forms=("superlative", "position", "corner", "ordinal"))
SWAPPED = {
    "x": {"leftmost": "rightmost", "rightmost": "leftmost", "left": "right", "right": "left"},
    "y": {"topmost": "bottommost", "bottommost": "topmost", "top": "bottom", "bottom": "top"}
    | {"above": "below", "below": "above"},
}

boxes = st.tuples(st.integers(0, SIZE - 12), st.integers(0, SIZE - 12), st.integers(4, 11), st.integers(4, 11))
layouts = st.lists(st.tuples(boxes, st.sampled_from(["ball", "star", "cup"])), min_size=1, max_size=7)


def masks_of(layout) -> np.ndarray:
    masks = np.zeros((len(layout), SIZE, SIZE), bool)
    for mask, ((x, y, width, height), _) in zip(masks, layout, strict=True):
        mask[y : y + height, x : x + width] = True
    return masks


def naming_of(nouns, **unsure: float) -> Naming:
    """Every mask is surely called by its noun."""
    known = tuple(dict.fromkeys(nouns))
    sure = np.array([[float(noun == name) for name in known] for noun in nouns])
    return Naming(known, sure, np.where(sure > 0, 1.0, 0.01))


def texts(layout, config=ALL_FORMS, naming=None) -> list[list[str]]:
    naming = naming or naming_of([noun for _, noun in layout])
    return [[candidate.text for candidate in own] for own in place_candidates(naming, masks_of(layout), config)]


@given(layouts)
@settings(deadline=None, max_examples=150)
def test_what_is_written_refers_to_its_mask_alone(layout):
    objects = tuple(SceneObject(noun, "red", "plain", "small", (x, y, x + w, y + h)) for (x, y, w, h), noun in layout)
    scene = Scene(np.zeros((SIZE, SIZE, 3), np.uint8), np.zeros((SIZE, SIZE), np.uint8), objects)
    for mask, own in enumerate(texts(layout)):
        for text in own:
            assert referents(text, scene) == (mask,), text


@given(layouts, st.sampled_from(["x", "y"]))
@settings(deadline=None, max_examples=60)
def test_a_flip_of_the_image_swaps_the_sides(layout, axis):
    flipped = [(((SIZE - x - w, y, w, h) if axis == "x" else (x, SIZE - y - h, w, h)), noun) for (x, y, w, h), noun in layout]
    swap = SWAPPED[axis]
    expected = [{" ".join(swap.get(word, word) for word in text.split()) for text in own} for own in texts(layout)]
    assert [set(own) for own in texts(flipped)] == expected


ROW = [((20, 100, 10, 10), "cup"), ((90, 100, 10, 10), "cup"), ((160, 100, 10, 10), "cup"), ((230, 100, 10, 10), "dog")]


def test_three_in_a_row():
    left, middle, right, dog = texts(ROW, FOUR_FORMS)
    assert left == ["the leftmost cup", "the third cup from the right"]
    assert middle == ["the second cup from the left", "the second cup from the right"]
    assert right == ["the rightmost cup", "the cup on the right", "the third cup from the left"]
    assert dog == [], "it has no rival"


@pytest.mark.parametrize(
    ("form", "expected"), [("superlative", 1), ("position", 0), ("ordinal", 1), ("corner", 0), ("size", 0)]
)
def test_only_the_forms_that_are_asked_for(form, expected):
    assert len(texts(ROW, PlaceConfig(forms=(form,)))[0]) == expected
    assert texts(ROW, PlaceConfig(forms=())) == [[], [], [], []]


@pytest.mark.parametrize(
    ("agreement", "recognition", "written"),
    [
        (1.0, 1.0, True),
        (0.4, 1.0, False),  # its candidates do not agree
        (1.0, 0.2, False),  # the scorer sees something else
        (0.06, 0.01, False),  # a few candidates say so
        (0.0, 1.0, False),  # the scorer alone says so
        (0.01, 0.01, True),  # nobody does: there are two cups
    ],
)
def test_nothing_is_written_where_a_rival_is_unsure(agreement, recognition, written):
    naming = naming_of([noun for _, noun in ROW])
    naming.agreement[2, 0], naming.recognition[2, 0] = agreement, recognition
    assert any(texts(ROW, naming=naming)) == written


def test_sizes_are_compared_where_they_clearly_differ():
    def found(*sides: int) -> list[list[str]]:
        row = [((30 * place, 100, side, side), "cup") for place, side in enumerate(sides)]
        return texts(row, PlaceConfig(forms=("size",)))

    assert found(10, 13) == [["the smaller cup"], ["the larger cup"]]
    assert found(10, 12) == [[], []]
    assert found(20, 10, 14) == [["the largest cup"], ["the smallest cup"], []]
    assert found(20, 10, 11) == [["the largest cup"], [], []]
    assert found(10) == [[]]


def test_a_relation_names_the_nearest_thing_that_is_the_only_one_of_its_kind():
    def found(*things: tuple[int, int, str]) -> list[list[str]]:
        return texts([((x, y, 10, 10), noun) for x, y, noun in things], PlaceConfig(forms=("relation",)))

    assert found((20, 100, "cup"), (180, 100, "cup"), (100, 100, "box")) == [
        ["the cup to the left of the box"],
        ["the cup to the right of the box"],
        [],
    ]
    # Both cups are left of the box, and only one is above it.
    assert found((20, 20, "cup"), (40, 200, "cup"), (100, 100, "box"))[0] == ["the cup above the box"]
    assert found((20, 100, "cup"), (180, 100, "cup"), (100, 20, "box"), (100, 200, "box"))[:2] == [[], []]
    assert found((20, 100, "cup"), (180, 100, "cup")) == [[], []]
    assert found((20, 100, "cup"), (180, 150, "cup"), (22, 120, "star"), (100, 100, "box"))[0] == ["the cup above the star"]


def test_two_that_are_level_are_not_told_apart():
    level = [((20, 100, 10, 10), "cup"), ((25, 200, 10, 10), "cup")]
    assert texts(level) == [
        ["the topmost cup"],
        ["the bottommost cup", "the cup at the bottom", "the cup in the bottom left corner"],
    ]
    assert texts(level, replace(ALL_FORMS, margin=0.01))[0][0] == "the leftmost cup"


def test_the_middle_is_clearly_there_and_no_rival_is():
    def found(x: int) -> list[list[str]]:
        return texts([((123, 123, 10, 10), "cup"), ((x, 30, 10, 10), "cup")], PlaceConfig(forms=("position",)))

    assert "the cup in the middle" in found(120)[0]
    assert found(120)[1] == ["the cup at the top"]
    near = texts([((123, 123, 10, 10), "cup"), ((140, 150, 10, 10), "cup")], PlaceConfig(forms=("position",)))
    assert near == [[], []]
    edge = texts([((168, 123, 10, 10), "cup"), ((20, 30, 10, 10), "cup")], PlaceConfig(forms=("position",)))
    assert "the cup in the middle" not in edge[0], "too near to the edge of the middle"


def described(colours: list[str], noun: str = "cup", unsure: float = 0.0) -> list[NamedMask]:
    """Every mask's candidates say its colour; of the last one's a share says another colour."""
    made = []
    for place, colour in enumerate(colours):
        said = [f"a {colour} {noun}"] * 20
        if place == len(colours) - 1:
            said[: round(20 * unsure)] = [f"a {colours[0]} {noun}"] * round(20 * unsure)
        made.append(NamedMask(place, tuple(said), (noun,) * 20, ()))
    return made


@given(st.lists(st.tuples(boxes, st.sampled_from(["red", "blue", "green"])), min_size=2, max_size=7))
@settings(deadline=None, max_examples=100)
def test_with_attributes_what_is_written_refers_to_its_mask_alone(layout):
    objects = tuple(SceneObject("cup", colour, "plain", "small", (x, y, x + w, y + h)) for (x, y, w, h), colour in layout)
    scene = Scene(np.zeros((SIZE, SIZE, 3), np.uint8), np.zeros((SIZE, SIZE), np.uint8), objects)
    plain, config = [(box, "cup") for box, _ in layout], replace(FOUR_FORMS, attributes=True)
    named = described([colour for _, colour in layout])
    written = place_candidates(naming_of(["cup"] * len(layout)), masks_of(plain), config, named)
    for mask, own in enumerate(written):
        for candidate in own:
            assert referents(candidate.text, scene) == (mask,), candidate.text
            assert candidate.noun == "cup"


def test_an_attribute_is_written_where_some_have_it_and_others_surely_have_not():
    def found(colours: list[str], unsure: float = 0.0, on: bool = True) -> list[list[str]]:
        config = PlaceConfig(forms=("superlative",), attributes=on)
        row = [((30 + 60 * place, 100, 10, 10), "cup") for place in range(len(colours))]
        written = place_candidates(naming_of(["cup"] * len(row)), masks_of(row), config, described(colours, unsure=unsure))
        return [[candidate.text for candidate in own] for own in written]

    assert found(["red", "red", "blue"]) == [
        ["the leftmost cup", "the leftmost red cup"],
        ["the rightmost red cup"],
        ["the rightmost cup"],
    ]
    assert found(["red", "red", "blue"], unsure=0.1) == [["the leftmost cup"], [], ["the rightmost cup"]]
    assert found(["red", "red"]) == found(["red", "red"], on=False) == [["the leftmost cup"], ["the rightmost cup"]]


@pytest.mark.parametrize("noun", ["people", "two dogs", "3d", "cups"])
def test_nouns_that_do_not_fit_a_single_thing_are_left_out(noun):
    assert not any(texts([(box, noun) for box, _ in ROW]))


def test_an_expression_is_scored_without_its_place():
    masks = masks_of(ROW)
    candidate = place_candidates(naming_of([noun for _, noun in ROW]), masks, ALL_FORMS)[0][0]
    assert (candidate.strategy, candidate.crop_set, candidate.noun, candidate.shown) == ("place", "image", "cup", "the cup")
