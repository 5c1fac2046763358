"""Expressions with place words, such as "the leftmost cup", composed from the masks' boxes and names.

Half of the expressions of RefCOCO say where a thing is (Yu et al., ECCV 2016), which a crop cannot show. An expression is
written only where the geometry decides with a margin, and where it is sure which masks have the noun.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pseudo_ris.config import PlaceConfig
from pseudo_ris.distinctiveness.groups import GroupRules, NamedMask, having_attributes
from pseudo_ris.distinctiveness.naming import Naming
from pseudo_ris.io.boxes import box_of
from pseudo_ris.records import Candidate, MaskCaptions

PLACE = "place"
"""The strategy of these candidates."""
WHOLE_IMAGE = "image"
"""Their crop set: none of the crops shows where a mask is."""
LOW, HIGH = 0.4, 0.6
"""Shares of the width or height where the left and top parts of an image end, and where the right and bottom parts begin."""
MIDDLE = 0.4
"""Share of the width and height that is the middle."""
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
RELATIONS = {"left": "to the left of", "right": "to the right of", "top": "above", "bottom": "below"}
"""Side -> the words that put a thing there of another one."""
CLEARLY_LARGER = 1.5
"""Ratio of two boxes' areas from which on one thing is surely the larger one."""


@dataclass(frozen=True, eq=False)
class Spot:
    """Where a mask is among its rivals, the other masks that are called by `noun`, which may have an attribute before it.

    centre: [2] and rivals: [R, 2] are the boxes' centres, x and y as shares of the image. area, rival_areas: of the boxes.
    landmark: noun and centre of the nearest mask that alone is called by its noun, which is another one; None without one.
    """

    noun: str
    centre: np.ndarray
    rivals: np.ndarray
    area: float
    rival_areas: np.ndarray
    landmark: tuple[str, np.ndarray] | None


def place_candidates(
    naming: Naming, masks: np.ndarray, config: PlaceConfig, named_masks: Sequence[NamedMask] = ()
) -> list[list[Candidate]]:
    """The expressions with place words of each mask.

    naming: of the N masks. masks: bool [N, H, W], none of them empty. named_masks: the candidates of the masks, each with its
    index as seg_id; needed with `config.attributes`. A mask is compared with its rivals, the other masks that are called by the
    same noun; nothing is written for a noun that a mask may, but need not have (see `Naming.members`). With attributes the
    rivals are also those that share one, where some of the noun's masks have it and some surely have not.
    """
    written: list[list[Candidate]] = [[] for _ in masks]
    if not config.forms:
        return written
    height, width = masks.shape[1:]
    boxes = np.array([box_of(mask) for mask in masks], float).reshape(-1, 4)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2 / (width, height)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    members = naming.members(config.sure, config.recognised, config.possible)
    landmarks = {noun: int(named[0]) for noun, named in members.items() if len(named) == 1}
    for noun, named in members.items():
        phrases = {noun: named}
        if config.attributes:
            phrases |= _with_attribute(noun, [named_masks[mask] for mask in named])
        for phrase, alike in phrases.items():
            for mask in alike if len(alike) > 1 else ():
                others = alike[alike != mask]
                landmark = _nearest(centres[mask], {name: centres[at] for name, at in landmarks.items() if at != mask})
                spot = Spot(phrase, centres[mask], centres[others], areas[mask], areas[others], landmark)
                for form in config.forms:
                    texts = FORMS[form](spot, config.margin)
                    written[mask] += [Candidate(text, WHOLE_IMAGE, PLACE, noun=noun) for text in texts]
    return written


def _with_attribute(noun: str, called: Sequence[NamedMask]) -> dict[str, np.ndarray]:
    """Attribute and noun -> the masks that have both, where these are some and not all of those called by the noun."""
    found = having_attributes(called, GroupRules())
    return {f"{word} {noun}": np.array([mask.seg_id for mask in having]) for word, having in found if len(having) < len(called)}


def _nearest(centre: np.ndarray, landmarks: dict[str, np.ndarray]) -> tuple[str, np.ndarray] | None:
    return min(landmarks.items(), key=lambda landmark: float(np.hypot(*(landmark[1] - centre))), default=None)


def without_places(captions: Sequence[MaskCaptions]) -> list[MaskCaptions]:
    """Returns the masks' captions without expressions with place words."""
    return [replace(own, candidates=tuple(c for c in own.candidates if c.strategy != PLACE)) for own in captions]


def _superlatives(spot: Spot, margin: float) -> Iterator[str]:
    for direction in DIRECTIONS:
        if (_distances(direction, spot.centre, spot.rivals) >= margin).all():
            yield f"the {direction.superlative} {spot.noun}"


def _positions(spot: Spot, margin: float) -> Iterator[str]:
    for direction in DIRECTIONS:
        if _only_here((direction,), spot.centre, spot.rivals, margin):
            yield f"the {spot.noun} {direction.position}"
    if _in_middle(spot.centre, -margin) and not any(_in_middle(rival, margin) for rival in spot.rivals):
        yield f"the {spot.noun} in the middle"


def _corners(spot: Spot, margin: float) -> Iterator[str]:
    for vertical in (TOP, BOTTOM):
        for horizontal in (LEFT, RIGHT):
            if _only_here((vertical, horizontal), spot.centre, spot.rivals, margin):
                yield f"the {spot.noun} in the {vertical.side} {horizontal.side} corner"


def _ordinals(spot: Spot, margin: float) -> Iterator[str]:
    for direction in DIRECTIONS:
        distances = _distances(direction, spot.centre, spot.rivals)
        before = int((distances < 0).sum())
        if (abs(distances) >= margin).all() and 1 <= before <= len(ORDINALS) and len(spot.rivals) >= 2:
            yield f"the {ORDINALS[before - 1]} {spot.noun} from the {direction.side}"


def _sizes(spot: Spot, margin: float) -> Iterator[str]:
    two = len(spot.rivals) == 1
    if (spot.area >= CLEARLY_LARGER * spot.rival_areas).all():
        yield f"the {'larger' if two else 'largest'} {spot.noun}"
    if (spot.area * CLEARLY_LARGER <= spot.rival_areas).all():
        yield f"the {'smaller' if two else 'smallest'} {spot.noun}"


def _relations(spot: Spot, margin: float) -> Iterator[str]:
    if spot.landmark is None:
        return
    noun, centre = spot.landmark
    for direction in DIRECTIONS:
        own = _distances(direction, spot.centre, centre[None])[0]
        others = -_distances(direction, centre, spot.rivals)
        if own >= margin and (others <= -margin).all():
            yield f"the {spot.noun} {RELATIONS[direction.side]} the {noun}"


FORMS: dict[str, Callable[[Spot, float], Iterator[str]]] = {
    "superlative": _superlatives,
    "position": _positions,
    "corner": _corners,
    "ordinal": _ordinals,
    "size": _sizes,
    "relation": _relations,
}


def _distances(direction: Direction, centre: np.ndarray, rivals: np.ndarray) -> np.ndarray:
    """How much farther than the mask each rival is from a side, [R]; negative for those that are nearer."""
    return direction.sign * (rivals[:, direction.axis] - centre[direction.axis])


def _in_middle(centre: np.ndarray, slack: float) -> bool:
    """Whether a centre lies in the middle of the image, which is larger by `slack` on each side."""
    return bool((abs(centre - 0.5) < MIDDLE / 2 + slack).all())


def _only_here(parts: tuple[Direction, ...], centre: np.ndarray, rivals: np.ndarray, margin: float) -> bool:
    """Whether the mask is clearly in all of the parts of the image, and each rival clearly outside one of them."""
    inside = all(part.holds(centre, -margin) for part in parts)
    return inside and not any(all(part.holds(rival, margin) for part in parts) for rival in rivals)
