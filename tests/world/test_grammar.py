"""The grammar of the drawn world, by hand-written cases and properties."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pseudo_ris.world.grammar import (
    WORDS,
    Expression,
    full_caption,
    group_referents,
    is_true,
    parse,
    referents,
    sample_caption,
    sample_positional_expression,
)
from pseudo_ris.world.scenes import CATEGORIES, COLOURS, PATTERNS, SIZES, Scene, SceneObject, draw_scene

RED_BALL = SceneObject("ball", "red", "striped", "large", (10, 10, 90, 90))
SMALL_BALL = SceneObject("ball", "red", "plain", "small", (200, 20, 240, 60))
BLUE_BALL = SceneObject("ball", "blue", "striped", "small", (110, 110, 146, 146))
ORANGE_CUP = SceneObject("cup", "orange", "dotted", "large", (150, 170, 250, 250))
BLANK = np.zeros((256, 256), np.uint8)
SCENE = Scene(np.zeros((256, 256, 3), np.uint8), BLANK, (RED_BALL, SMALL_BALL, BLUE_BALL, ORANGE_CUP))

objects = st.builds(
    SceneObject,
    st.sampled_from(CATEGORIES),
    st.sampled_from(COLOURS),
    st.sampled_from(PATTERNS),
    st.sampled_from(SIZES),
    st.just((0, 0, 40, 40)),
)
seeds = st.integers(0, 2**32 - 1)
unhurried = settings(deadline=None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a ball", Expression("ball")),
        ("the large red striped ball", Expression("ball", "large", "red", "striped")),
        ("An orange cup with dots in the picture", Expression("cup", None, "orange", "dotted")),
        ("a small orange cup.", Expression("cup", "small", "orange")),
        ("the red ball on the left", Expression("ball", None, "red", position="on the left")),
        ("the ball on the ground on the left", Expression("ball", position="on the left")),
        ("a plain ball in the middle", Expression("ball", None, None, "plain", position="in the middle")),
        ("the leftmost red ball", Expression("ball", None, "red", superlative="leftmost")),
    ],
)
def test_grammatical(text, expected):
    assert parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ball",
        "a",
        "a red",
        "a orange cup",
        "an red ball",
        "a red red ball",
        "a red blue ball",
        "a small large ball",
        "a red small ball",
        "a striped red ball",
        "a striped ball with stripes",
        "a striped ball with dots",
        "a plain ball with dots",
        "a ball with",
        "a ball with stripes with stripes",
        "a ball cup",
        "a leftmost ball",
        "the leftmost ball on the right",
        "the leftmost rightmost ball",
        "a ball on the left on the right",
        "a ball on the left in the picture",
        "a ball in the picture in the picture",
        "a ball on the",
        "a ball in",
        "a the ball",
        "a pink ball",
        "a ball . .",
    ],
)
def test_ungrammatical(text):
    assert parse(text) is None
    assert referents(text, SCENE) == ()
    assert not is_true(text, RED_BALL)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a ball", (0, 1, 2)),
        ("the red ball", (0, 1)),
        ("the red striped ball", (0,)),
        ("a ball with stripes in the image", (0, 2)),
        ("the small ball", (1, 2)),
        ("a plain ball", (1,)),
        ("a white ball", ()),
        ("a star", ()),
        ("a ball on the left", (0,)),
        ("the ball on the right", (1,)),
        ("the ball at the top", (0, 1)),
        ("a cup at the bottom", (3,)),
        ("a ball in the middle", (2,)),
        ("the rightmost red ball", (1,)),
        ("the leftmost small ball", (2,)),
        ("the bottommost ball", (2,)),
        ("the topmost cup", (3,)),
        ("the leftmost star", ()),
    ],
)
def test_referents(text, expected):
    assert referents(text, SCENE) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the three balls", (0, 1, 2)),
        ("the two red balls", (0, 1)),
        ("The two striped balls", (0, 2)),
        ("the two small balls", (1, 2)),
        ("the two balls", ()),
        ("the four balls", ()),
        ("the two cups", ()),
        ("the red balls", ()),
        ("two red balls", ()),
        ("the two ball", ()),
        ("the two red green balls", ()),
        ("", ()),
    ],
)
def test_a_group_means_its_objects_if_their_number_is_right(text, expected):
    assert group_referents(text, SCENE) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the largest ball", (0,)),
        ("the smallest red ball", (1,)),
        ("the smaller red ball", (1,)),
        ("the larger ball", ()),
        ("the largest star", ()),
        ("a largest ball", ()),
        ("the ball to the left of the cup", (0, 2)),
        ("the red ball to the right of the cup", (1,)),
        ("the ball below the cup", ()),
        ("the cup below the ball", ()),
        ("the cup above the star", ()),
        ("the cup above the", ()),
        ("the largest ball above the cup", ()),
    ],
)
def test_comparisons_of_sizes_and_relations(text, expected):
    assert referents(text, SCENE) == expected


def test_is_true_ignores_position():
    assert is_true("the red ball on the right", RED_BALL)
    assert referents("the red ball on the right", Scene(SCENE.image, BLANK, (RED_BALL,))) == ()


@unhurried
@given(objects, seeds)
def test_sampled_captions_are_true_and_long_enough(obj, seed):
    caption = sample_caption(obj, np.random.default_rng(seed))
    said = parse(caption)
    assert said is not None and said.position is None and said.superlative is None
    assert is_true(caption, obj)
    assert len(caption.split()) >= 4 and set(caption.split()) <= set(WORDS)
    nouns = [word for word in caption.split() if word in CATEGORIES]
    assert nouns == [obj.category]


@unhurried
@given(objects)
def test_full_caption_says_everything(obj):
    assert parse(full_caption(obj)) == Expression(obj.category, obj.size, obj.colour, obj.pattern)


@unhurried
@given(objects, objects)
def test_full_caption_tells_objects_apart(obj, other):
    same = (obj.category, obj.colour, obj.pattern, obj.size) == (other.category, other.colour, other.pattern, other.size)
    assert is_true(full_caption(obj), other) == same


@unhurried
@given(objects, seeds)
def test_a_changed_attribute_makes_the_caption_false(obj, seed):
    rng = np.random.default_rng(seed)
    said = parse(sample_caption(obj, rng))
    kinds = {"category": CATEGORIES, "colour": COLOURS, "pattern": PATTERNS, "size": SIZES}
    for field, values in kinds.items():
        other = next(value for value in values if value != getattr(obj, field))
        changed = SceneObject(**{**vars(obj), field: other})
        assert is_true(said, changed) == (getattr(said, field) is None)


@unhurried
@given(st.lists(st.sampled_from(WORDS), max_size=9))
def test_any_words_are_parsed_or_refused(words):
    said = parse(" ".join(words))
    if said is not None:
        assert words.count(said.category) == 1 and words[0] in ("a", "an", "the")
        assert sum(word in COLOURS for word in words) == (said.colour is not None)


def test_captions_are_often_generic():
    rng = np.random.default_rng(0)
    said = [parse(sample_caption(RED_BALL, rng)) for _ in range(2000)]
    for field in ("size", "colour", "pattern"):
        assert 0.33 < np.mean([getattr(expression, field) is not None for expression in said]) < 0.5
    plain = [parse(sample_caption(SMALL_BALL, rng)) for _ in range(1000)]
    assert 0.05 < np.mean([expression.pattern is not None for expression in plain]) < 0.2


def test_positional_expressions_are_true_and_mostly_single_out():
    rng = np.random.default_rng(0)
    unique = []
    positional = 0
    for index in range(12):
        scene = draw_scene("validation", 13, index)
        for number in range(len(scene.objects)):
            text = sample_positional_expression(scene, number, rng)
            found = referents(text, scene)
            assert number in found
            unique.append(found == (number,))
            said = parse(text)
            positional += bool(said.position or said.superlative)
    assert np.mean(unique) > 0.9
    assert positional > 0.3 * len(unique)


def test_half_of_the_expressions_name_no_place_where_looks_tell_objects_apart():
    apart = Scene(SCENE.image, BLANK, (RED_BALL, ORANGE_CUP))
    rng = np.random.default_rng(0)
    said = [parse(sample_positional_expression(apart, 0, rng)) for _ in range(600)]
    assert 0.44 < np.mean([bool(expression.position or expression.superlative) for expression in said]) < 0.56
    twins = Scene(SCENE.image, BLANK, (RED_BALL, replace(RED_BALL, box=(150, 10, 230, 90))))
    said = [parse(sample_positional_expression(twins, 0, rng)) for _ in range(50)]
    assert all(expression.position or expression.superlative for expression in said)


def test_forms_without_a_category_have_no_caption():
    form = SceneObject("", "", "", "", (0, 0, 40, 40))
    with pytest.raises(ValueError, match="category"):
        sample_caption(form, np.random.default_rng(0))
    assert not is_true("a ball", form)
