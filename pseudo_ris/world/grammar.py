"""The grammar of expressions about drawn scenes, its parser, and the objects to which an expression refers.

    expression  := determiner [superlative | ordinal] [size] [colour] [pattern] category ["with" marks] [tail] [position]
    determiner  := "a" | "an" | "the"         ("an" only before a vowel; a superlative needs "the")
    marks       := "stripes" | "dots"         (only without a pattern adjective)
    tail        := "in the picture" | "in the image" | "on the ground" | "on display"         (no meaning)
    relation    := ("to the left of" | "to the right of" | "above" | "below") "the" category      (in place of a position)
    position    := "on the left" | "on the right" | "at the top" | "at the bottom" | "in the middle" | corner | side
    ordinal     := "second" | "third"         (needs "the" and a side)
    corner      := "in the top left corner" | ...
    side        := "from the left" | "from the right" | "from the top" | "from the bottom"   (only with an ordinal)
    group       := "the" number [size] [colour] [pattern] plural         (see `group_referents`)
    number      := "two" | ... | "eight"

Positions refer to the centres of the boxes. A superlative or ordinal selects among the objects of which the rest is true;
"largest" and "smallest" compare the boxes' areas, "larger" and "smaller" those of exactly two. A relation needs exactly one
object of its category.
Captions for training on crops contain no position words, since a crop does not show where it was cut (see `sample_caption`).
Ordinals, corners, relations and sizes by comparison are read but never drawn, and are not in the embedded models' vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from pseudo_ris.world.scenes import CATEGORIES, COLOURS, PATTERNS, SIZE, SIZES, Scene, SceneObject

TAILS: tuple[str, ...] = ("in the picture", "in the image", "on the ground", "on display")
MARKS: dict[str, str] = {"stripes": "striped", "dots": "dotted"}

_LOW, _HIGH = 0.4 * SIZE, 0.6 * SIZE
_MIDDLE = (0.3 * SIZE, 0.7 * SIZE)
POSITIONS: dict[str, Callable[[float, float], bool]] = {
    "on the left": lambda x, y: x < _LOW,
    "on the right": lambda x, y: x > _HIGH,
    "at the top": lambda x, y: y < _LOW,
    "at the bottom": lambda x, y: y > _HIGH,
    "in the middle": lambda x, y: _MIDDLE[0] <= x <= _MIDDLE[1] and _MIDDLE[0] <= y <= _MIDDLE[1],
}
# A superlative refers to the object with the smallest value.
SUPERLATIVES: dict[str, Callable[[float, float], float]] = {
    "leftmost": lambda x, y: x,
    "rightmost": lambda x, y: -x,
    "topmost": lambda x, y: y,
    "bottommost": lambda x, y: -y,
}
CORNERS: dict[str, Callable[[float, float], bool]] = {
    "in the top left corner": lambda x, y: x < _LOW and y < _LOW,
    "in the top right corner": lambda x, y: x > _HIGH and y < _LOW,
    "in the bottom left corner": lambda x, y: x < _LOW and y > _HIGH,
    "in the bottom right corner": lambda x, y: x > _HIGH and y > _HIGH,
}
ORDINALS: dict[str, int] = {"second": 1, "third": 2}
# An ordinal counts from the object with the smallest value.
SIDES: dict[str, Callable[[float, float], float]] = {
    "from the left": SUPERLATIVES["leftmost"],
    "from the right": SUPERLATIVES["rightmost"],
    "from the top": SUPERLATIVES["topmost"],
    "from the bottom": SUPERLATIVES["bottommost"],
}
NUMBERS: dict[str, int] = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8}
SINGULARS: dict[str, str] = {{"box": "boxes", "fish": "fish"}.get(name, f"{name}s"): name for name in CATEGORIES}
# A comparison of sizes refers to the object with the smallest value of sign * area.
COMPARISONS: dict[str, int] = {"largest": -1, "smallest": 1, "larger": -1, "smaller": 1}
OF_TWO = ("larger", "smaller")
# Whether the first centre is there of the second one.
RELATIONS: dict[str, Callable[[tuple[float, float], tuple[float, float]], bool]] = {
    "to the left of the": lambda own, other: own[0] < other[0],
    "to the right of the": lambda own, other: own[0] > other[0],
    "above the": lambda own, other: own[1] < other[1],
    "below the": lambda own, other: own[1] > other[1],
}
WORDS: tuple[str, ...] = tuple(
    sorted(
        {"a", "an", "the", "with", *CATEGORIES, *COLOURS, *PATTERNS, *SIZES, *MARKS, *SUPERLATIVES}
        | {word for phrase in (*TAILS, *POSITIONS) for word in phrase.split()}
    )
)

# Probability that a caption names each attribute; low, so that likely captions are generic and fit several objects.
_SAY = {"size": 0.4, "colour": 0.45, "marks": 0.4, "plain": 0.12}
_SAY_WITH = 0.3
_SAY_TAIL = 0.15
_SAY_PLACE = 0.5
_MIN_WORDS = 4


@dataclass(frozen=True)
class Expression:
    """A parsed expression; None for parts that it does not name.

    position: a key of POSITIONS, CORNERS or RELATIONS, or with an ordinal of SIDES. superlative: a key of SUPERLATIVES or
    COMPARISONS. ordinal: a key of ORDINALS. landmark: the category that a relation names.
    """

    category: str
    size: str | None = None
    colour: str | None = None
    pattern: str | None = None
    position: str | None = None
    superlative: str | None = None
    ordinal: str | None = None
    landmark: str | None = None


class _Reader:
    """Consumes the words of an expression from the front."""

    def __init__(self, words: list[str]) -> None:
        self._words = words

    def one_of(self, choices: tuple[str, ...] | dict[str, object]) -> str | None:
        """Consumes and returns the next word or phrase if it is one of `choices`; otherwise returns None."""
        for choice in choices:
            length = choice.count(" ") + 1
            if self._words[:length] == choice.split(" "):
                del self._words[:length]
                return choice
        return None

    @property
    def next(self) -> str:
        return self._words[0] if self._words else ""


def _needs_an(word: str) -> bool:
    return word[:1] in tuple("aeiou")


def parse(expression: str) -> Expression | None:
    """Parses an expression; returns None if it is ungrammatical. Ignores case, outer spaces and one final full stop."""
    reader = _Reader(expression.strip().lower().removesuffix(".").split())
    determiner = reader.one_of(("a", "an", "the"))
    if determiner is None or (determiner != "the" and (determiner == "an") != _needs_an(reader.next)):
        return None
    superlative = reader.one_of(SUPERLATIVES | COMPARISONS)
    ordinal = None if superlative else reader.one_of(ORDINALS)
    if (superlative or ordinal) and determiner != "the":
        return None
    size, colour, pattern = reader.one_of(SIZES), reader.one_of(COLOURS), reader.one_of(PATTERNS)
    category = reader.one_of(CATEGORIES)
    if category is None:
        return None
    if reader.one_of(("with",)):
        marks = reader.one_of(MARKS)
        if marks is None or pattern is not None:
            return None
        pattern = MARKS[marks]
    reader.one_of(TAILS)
    position = reader.one_of(SIDES if ordinal else POSITIONS | CORNERS | RELATIONS)
    landmark = reader.one_of(CATEGORIES) if position in RELATIONS else None
    if reader.next or (position and superlative) or (ordinal and not position) or (position in RELATIONS and not landmark):
        return None
    return Expression(category, size, colour, pattern, position, superlative, ordinal, landmark)


def _read(expression: str | Expression) -> Expression | None:
    return parse(expression) if isinstance(expression, str) else expression


def is_true(expression: str | Expression, obj: SceneObject) -> bool:
    """True if category, size, colour and pattern fit the object; ignores positions. False if ungrammatical."""
    said = _read(expression)
    return said is not None and all(
        value is None or value == actual
        for value, actual in (
            (said.category, obj.category),
            (said.size, obj.size),
            (said.colour, obj.colour),
            (said.pattern, obj.pattern),
        )
    )


def referents(expression: str | Expression, scene: Scene) -> tuple[int, ...]:
    """Returns the indices (from 0) of the objects of which the expression is true; () if it is ungrammatical."""
    said = _read(expression)
    if said is None:
        return ()
    centres = {index: _centre(obj) for index, obj in enumerate(scene.objects) if is_true(said, obj)}
    if said.ordinal:
        value, place = SIDES[said.position], ORDINALS[said.ordinal]
        ranked = sorted(centres, key=lambda index: value(*centres[index]))
        return tuple(ranked[place : place + 1])
    if said.landmark:
        there = [_centre(obj) for obj in scene.objects if obj.category == said.landmark]
        holds = RELATIONS[said.position]
        return tuple(index for index, centre in centres.items() if holds(centre, there[0])) if len(there) == 1 else ()
    if said.position:
        holds = (POSITIONS | CORNERS)[said.position]
        return tuple(index for index, centre in centres.items() if holds(*centre))
    if said.superlative in COMPARISONS:
        if not centres or (said.superlative in OF_TWO and len(centres) != 2):
            return ()
        signed = {index: COMPARISONS[said.superlative] * _area(scene.objects[index]) for index in centres}
        return tuple(index for index, area in signed.items() if area == min(signed.values()))
    if said.superlative and centres:
        order = SUPERLATIVES[said.superlative]
        best = min(order(*centre) for centre in centres.values())
        return tuple(index for index, centre in centres.items() if order(*centre) == best)
    return tuple(centres)


def group_referents(expression: str, scene: Scene) -> tuple[int, ...]:
    """Returns the indices (from 0) of the objects that "the two red cups" means; () if not exactly two are red cups.

    Also () if the expression is not a `group` of the grammar.
    """
    words = expression.lower().split()
    if len(words) < 3 or words[0] != "the" or words[1] not in NUMBERS or words[-1] not in SINGULARS:
        return ()
    fitting = referents(" ".join(("the", *words[2:-1], SINGULARS[words[-1]])), scene)
    return fitting if len(fitting) == NUMBERS[words[1]] else ()


def _centre(obj: SceneObject) -> tuple[float, float]:
    x0, y0, x1, y1 = obj.box
    return (x0 + x1) / 2, (y0 + y1) / 2


def _area(obj: SceneObject) -> int:
    x0, y0, x1, y1 = obj.box
    return (x1 - x0) * (y1 - y0)


def _compose(said: Expression, determiner: str, with_marks: bool = False, tail: str = "") -> str:
    """Writes an expression as text. determiner: "a" (becomes "an" before a vowel) or "the"."""
    marks = next((marks for marks, pattern in MARKS.items() if pattern == said.pattern), None) if with_marks else None
    adjectives = [said.superlative, said.size, said.colour, None if marks else said.pattern]
    words = [word for word in (*adjectives, said.category) if word]
    if determiner == "a" and _needs_an(words[0]):
        determiner = "an"
    ending = [f"with {marks}" if marks else "", tail, said.position or ""]
    return " ".join(part for part in (determiner, *words, *ending) if part)


def _some_attributes(obj: SceneObject, rng: np.random.Generator) -> Expression:
    say_size, say_colour, say_pattern = rng.random(3)
    pattern_odds = _SAY["plain"] if obj.pattern == "plain" else _SAY["marks"]
    return Expression(
        obj.category,
        obj.size if say_size < _SAY["size"] else None,
        obj.colour if say_colour < _SAY["colour"] else None,
        obj.pattern if say_pattern < pattern_odds else None,
    )


def sample_caption(obj: SceneObject, rng: np.random.Generator) -> str:
    """Returns a caption with a random subset of the object's attributes and no position words.

    It has at least four words (shorter ones get a tail without meaning), and the category is its first noun, so that the first
    noun phrase ends with the category.

    Raises:
        ValueError: the object has no category.
    """
    _check_named(obj)
    said = _some_attributes(obj, rng)
    determiner = "a" if rng.random() < 0.6 else "the"
    caption = _compose(said, determiner, with_marks=bool(rng.random() < _SAY_WITH))
    if len(caption.split()) < _MIN_WORDS or rng.random() < _SAY_TAIL:
        caption += " " + TAILS[int(rng.integers(len(TAILS)))]
    return caption


def full_caption(obj: SceneObject) -> str:
    """Returns the caption with all attributes, for example "a large red striped ball"."""
    _check_named(obj)
    return _compose(Expression(obj.category, obj.size, obj.colour, obj.pattern), "a")


def _check_named(obj: SceneObject) -> None:
    if not obj.category:
        raise ValueError("obj: a form without a category has no caption; skip it")


def sample_positional_expression(scene: Scene, index: int, rng: np.random.Generator, tries: int = 20) -> str:
    """Returns an expression of object `index` (from 0) that may name its position.

    It is the first of up to `tries` draws that refers to this object alone, otherwise the last draw. Half of the expressions
    name no position, if such an expression is found in the first half of the tries.

    Raises:
        ValueError: the object has no category.
    """
    obj = scene.objects[index]
    _check_named(obj)
    fallback = full_caption(obj)
    placed = rng.random() < _SAY_PLACE
    for attempt in range(tries):
        said = _some_attributes(obj, rng)
        if placed or attempt >= tries // 2:
            said = _with_position(said, obj, scene, index, rng)
        determiner = "the" if said.superlative or rng.random() < 0.8 else "a"
        text = _compose(said, determiner, with_marks=bool(rng.random() < _SAY_WITH))
        fallback = text
        if referents(said, scene) == (index,):
            return text
    return fallback


def _with_position(said: Expression, obj: SceneObject, scene: Scene, index: int, rng: np.random.Generator) -> Expression:
    """Adds a position or superlative that is true of the object, if there is one."""
    choices = [replace(said, position=phrase) for phrase, holds in POSITIONS.items() if holds(*_centre(obj))]
    choices += [
        extended
        for extended in (replace(said, superlative=word) for word in SUPERLATIVES)
        if index in referents(extended, scene)
    ]
    return choices[int(rng.integers(len(choices)))] if choices else said
