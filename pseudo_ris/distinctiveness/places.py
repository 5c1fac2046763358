"""Expressions with place words, such as "the leftmost cup", composed from the masks' boxes and names.

Half of the expressions of RefCOCO say where a thing is (Yu et al., ECCV 2016), which a crop cannot show. An expression is
written only where the geometry decides with a margin, and where it is sure which masks have the noun.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pseudo_ris.config import PlaceConfig
from pseudo_ris.distinctiveness.naming import Naming
from pseudo_ris.distinctiveness.nouns import is_plural
from pseudo_ris.io.boxes import box_of
from pseudo_ris.records import Candidate, MaskCaptions

PLACE = "place"
"""The strategy of these candidates."""
WHOLE_IMAGE = "image"
"""Their crop set: none of the crops shows where a mask is."""
LOW, HIGH = 0.4, 0.6
"""Shares of the width or height where the left and top parts of an image end, and where the right and bottom parts begin."""
ORDINALS = ("second", "third")

X, Y = 0, 1
FORWARD, BACKWARD = 1, -1


@dataclass(frozen=True)
class Direction:
    """A side of the image. axis, sign: `sign * centre[axis]` is smallest at this side."""

    superlative: str
    side: str
    position: str
    axis: int
    sign: int

    def holds(self, centre: np.ndarray, slack: float) -> bool:
        """Whether a centre lies in this part of the image; the part is larger by `slack` on its inner side."""
        value = centre[self.axis]
        return bool(value < LOW + slack if self.sign > 0 else value > HIGH - slack)


LEFT = Direction("leftmost", "left", "on the left", X, FORWARD)
RIGHT = Direction("rightmost", "right", "on the right", X, BACKWARD)
TOP = Direction("topmost", "top", "at the top", Y, FORWARD)
BOTTOM = Direction("bottommost", "bottom", "at the bottom", Y, BACKWARD)
DIRECTIONS = (LEFT, RIGHT, TOP, BOTTOM)


def place_candidates(naming: Naming, masks: np.ndarray, config: PlaceConfig) -> list[list[Candidate]]:
    """The expressions with place words of each mask.

    naming: of the N masks. masks: bool [N, H, W], none of them empty. A mask is called by its most frequent head noun if
    `config.sure` of its candidates have it and the scorer's recognition is at least `config.recognised`; the others are its
    rivals if they may be called so: `config.possible` of their candidates say it or the scorer prefers it. Nothing is written
    for a noun that a rival may, but need not have.
    """
    written: list[list[Candidate]] = [[] for _ in masks]
    if not config.forms:
        return written
    height, width = masks.shape[1:]
    boxes = np.array([box_of(mask) for mask in masks], float).reshape(-1, 4)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2 / (width, height)
    called = (naming.agreement >= config.sure) & (naming.recognition >= config.recognised)
    possible = called | (naming.agreement >= config.possible) | (naming.recognition == 1)
    for column, noun in enumerate(naming.nouns):
        named, unsure = np.flatnonzero(called[:, column]), possible[:, column] & ~called[:, column]
        if len(named) < 2 or unsure.any() or not noun.isalpha() or is_plural(noun):
            continue
        for mask in named:
            others = named[named != mask]
            for text in _expressions(noun, centres[mask], centres[others], config):
                written[mask].append(Candidate(text, WHOLE_IMAGE, PLACE, noun=noun))
    return written


def without_places(captions: Sequence[MaskCaptions]) -> list[MaskCaptions]:
    """Returns the masks' captions without expressions with place words."""
    return [replace(own, candidates=tuple(c for c in own.candidates if c.strategy != PLACE)) for own in captions]


def _expressions(noun: str, centre: np.ndarray, rivals: np.ndarray, config: PlaceConfig) -> Iterator[str]:
    """Expressions for a mask among its rivals. centre: [2], rivals: [R, 2], x and y as shares of the image."""
    for form in config.forms:
        yield from FORMS[form](noun, centre, rivals, config.margin)


def _superlatives(noun: str, centre: np.ndarray, rivals: np.ndarray, margin: float) -> Iterator[str]:
    for direction in DIRECTIONS:
        if (_distances(direction, centre, rivals) >= margin).all():
            yield f"the {direction.superlative} {noun}"


def _positions(noun: str, centre: np.ndarray, rivals: np.ndarray, margin: float) -> Iterator[str]:
    for direction in DIRECTIONS:
        if _only_here((direction,), centre, rivals, margin):
            yield f"the {noun} {direction.position}"


def _corners(noun: str, centre: np.ndarray, rivals: np.ndarray, margin: float) -> Iterator[str]:
    for vertical in (TOP, BOTTOM):
        for horizontal in (LEFT, RIGHT):
            if _only_here((vertical, horizontal), centre, rivals, margin):
                yield f"the {noun} in the {vertical.side} {horizontal.side} corner"


def _ordinals(noun: str, centre: np.ndarray, rivals: np.ndarray, margin: float) -> Iterator[str]:
    for direction in DIRECTIONS:
        distances = _distances(direction, centre, rivals)
        before = int((distances < 0).sum())
        if (abs(distances) >= margin).all() and 1 <= before <= len(ORDINALS) and len(rivals) >= 2:
            yield f"the {ORDINALS[before - 1]} {noun} from the {direction.side}"


FORMS: dict[str, Callable[[str, np.ndarray, np.ndarray, float], Iterator[str]]] = {
    "superlative": _superlatives,
    "position": _positions,
    "corner": _corners,
    "ordinal": _ordinals,
}


def _distances(direction: Direction, centre: np.ndarray, rivals: np.ndarray) -> np.ndarray:
    """How much farther than the mask each rival is from a side, [R]; negative for those that are nearer."""
    return direction.sign * (rivals[:, direction.axis] - centre[direction.axis])


def _only_here(parts: tuple[Direction, ...], centre: np.ndarray, rivals: np.ndarray, margin: float) -> bool:
    """Whether the mask is clearly in all of the parts of the image, and each rival clearly outside one of them."""
    inside = all(part.holds(centre, -margin) for part in parts)
    return inside and not any(all(part.holds(rival, margin) for part in parts) for rival in rivals)
