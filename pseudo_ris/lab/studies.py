"""The studies of `pseudo-ris lab ablate`: the rules, settings and scenes of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pseudo_ris.config import PlaceConfig
from pseudo_ris.distinctiveness.places import FORMS
from pseudo_ris.pairs.selection_rules import PRESETS, SelectionRules
from pseudo_ris.world.scenes import Scene, draw_look_alikes, draw_scene

RECOMMENDED, PAPER = PRESETS["recommended"], PRESETS["paper"]
SAMPLED = SelectionRules(places="drop")
"""Every candidate, without composed expressions."""
WITHOUT_LISTENER = {"listener.rivals": 0}
"""For points whose rules ignore the listener: saves its time."""
LOOK_ALIKES = tuple(range(2, 9))


@dataclass(frozen=True)
class Point:
    """One choice of rules and settings.

    Args:
        series: the points that a figure joins by a line, or the label of a row.
        x: value of the setting that the series varies; None for a row.
        rules: which candidates count.
        switched: settings of both stages that differ from the defaults, "part.name" -> value.
        look_alikes: number of objects of a scene of look-alikes; 0 for ordinary scenes.
        strategy: "place" counts the expressions with place words alone.
    """

    series: str
    x: float | None = None
    rules: SelectionRules = SAMPLED
    switched: Mapping[str, Any] = field(default_factory=dict)
    look_alikes: int = 0
    strategy: Literal["all", "place"] = "all"

    def draw(self, split: str, seed: int, index: int) -> Scene:
        """Draws a scene for this point. Raises ValueError: see `world.scenes.scene_rng`."""
        return draw_look_alikes(split, seed, index, self.look_alikes) if self.look_alikes else draw_scene(split, seed, index)


@dataclass(frozen=True)
class Study:
    """Points measured on the same scenes.

    Args:
        title: of the figure.
        points: the first one is the reference of the differences.
        masks: "found" by stage 1, or the "true" ones.
        columns: measures in the printed table, see `ablate.MEASURES`.
        panels: the measures on the horizontal and the vertical axis of each panel of the figure. "x": the point's x; "series":
            one row per point.
        x_label: what x is, with its unit.
    """

    title: str
    points: tuple[Point, ...]
    masks: Literal["found", "true"]
    columns: tuple[str, ...]
    panels: tuple[tuple[str, str], ...]
    x_label: str = ""

    @property
    def measures(self) -> set[str]:
        """What the study measures: its columns and what its figure shows."""
        return {*self.columns, *(axis for panel in self.panels for axis in panel)} - {"x", "series"}


def _parts() -> Study:
    without = {
        "no agreement": {"agreement": None},
        "no recognition": {"recognition": None},
        "no listener": {"listener": None},
        "no token limit": {"max_tokens": None},
        "best by DoC, not by support": {"rank": "doc"},
        "no limit of two per mask": {"top_k": None},
        "no place words": {"places": "drop"},
        "and DoC > 1": {"doc": 1.0},
        "and word agreement >= 0.5": {"word_agreement": 0.5},
        "and minimal wording": {"redundant": "drop"},
        "minimal wording, no limit of two": {"redundant": "drop", "top_k": None},
    }
    points = (
        Point("recommended", rules=RECOMMENDED),
        *(Point(label, rules=replace(RECOMMENDED, **change)) for label, change in without.items()),
        Point("no calibration", rules=RECOMMENDED, switched={"decoding.calibration": "none"}),
        Point("place words alone", rules=RECOMMENDED, strategy="place"),
        Point("DoC > 1 alone (paper)", rules=PAPER),
        Point("every sampled candidate", rules=SAMPLED),
    )
    shown = ("true", "unique", "distinctive", "objects", "told_apart", "words")
    return Study(
        "Parts of selection, on stage 1's masks",
        points,
        "found",
        shown,
        (("distinctive", "series"), ("objects", "series"), ("told_apart", "series")),
    )


def _look_alikes() -> Study:
    sampled_recommended = replace(RECOMMENDED, places="drop")
    points = tuple(
        Point(series, count, rules, switched, look_alikes=count)
        for series, rules, switched in (
            ("every candidate", SAMPLED, {}),
            ("every candidate, no calibration", SAMPLED, {"decoding.calibration": "none"} | WITHOUT_LISTENER),
            ("DoC > 1 (paper)", PAPER, {}),
            ("recommended, no place words", sampled_recommended, {}),
            ("recommended", RECOMMENDED, {}),
        )
        for count in LOOK_ALIKES
    )
    panels = (("x", "distinctive"), ("x", "told_apart"), ("x", "objects"))
    shown = ("true", "unique", "distinctive", "objects", "told_apart")
    return Study("Look-alikes, on the true masks", points, "true", shown, panels, "objects of one category in the image")


def _thresholds() -> Study:
    bounds = {
        "doc": (0.5, 0.8, 0.9, 1.0, 1.05, 1.1, 1.2, 1.3, 1.5, 2.0, 2.5),
        "agreement": (0.25, 0.5, 0.65, 0.75, 0.85, 0.95, 1.0),
        "recognition": (0.1, 0.3, 0.5, 0.7, 0.9),
        "listener": (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99),
        "confidence": (0.02, 0.05, 0.1, 0.2, 0.3),
    }
    names = {"doc": "DoC > t"}
    points = (
        Point("every candidate"),
        *(
            Point(names.get(name, f"{name} >= t"), bound, replace(SAMPLED, **{name: bound}))
            for name, values in bounds.items()
            for bound in values
        ),
    )
    return Study(
        "Thresholds on one score, on stage 1's masks",
        points,
        "found",
        ("true", "unique", "distinctive", "objects", "told_apart"),
        (("objects", "distinctive"), ("told_apart", "distinctive"), ("objects", "true")),
    )


def _calibration() -> Study:
    forms = {"mean": (0.25, 0.5, 1.0, 1.5, 2.0), "softmax": (0.01, 0.1, 0.25, 0.5, 1.0, 2.0)}
    points = (
        Point("none", switched={"decoding.calibration": "none"} | WITHOUT_LISTENER),
        *(
            Point(
                form, weight, switched={"decoding.calibration": form, "decoding.calibration_weight": weight} | WITHOUT_LISTENER
            )
            for form, weights in forms.items()
            for weight in weights
        ),
        *(
            Point(
                "mean, every token in the support (release)",
                weight,
                switched={"decoding.calibration_weight": weight, "decoding.min_token_probability": 0.0} | WITHOUT_LISTENER,
            )
            for weight in forms["mean"]
        ),
    )
    panels = (("x", "distinctive"), ("x", "true"), ("x", "unique"))
    shown = ("true", "unique", "distinctive", "told_apart", "words")
    return Study("Forms and weights of the calibration, on the true masks", points, "true", shown, panels, "weight")


def _diversity() -> Study:
    ways: dict[str, tuple[dict[str, Any], ...]] = {
        "top-k sampling": tuple(
            {"top_k": values, "top_p": (), "beams": 1, "beam_groups": 1}
            for values in ((1, 2, 3, 4), (5, 7, 9, 11), (20, 30, 40, 50), (100, 200, 300, 400))
        ),
        "top-p sampling": tuple(
            {"top_p": values, "top_k": (), "beams": 1, "beam_groups": 1}
            for values in ((0.1, 0.15, 0.2, 0.25), (0.4, 0.5, 0.6, 0.7), (0.75, 0.8, 0.85, 0.9), (0.94, 0.96, 0.98, 1.0))
        ),
        "diverse beam search": tuple(
            {"top_k": (), "top_p": (), "beams": beams, "beam_groups": groups}
            for beams, groups in ((4, 1), (6, 3), (8, 8), (12, 12))
        ),
    }
    points = (
        Point("default", switched=WITHOUT_LISTENER),
        *(
            Point(way, number, switched={f"decoding.{name}": value for name, value in change.items()} | WITHOUT_LISTENER)
            for way, changes in ways.items()
            for number, change in enumerate(changes, 1)
        ),
    )
    panels = (("distinct_2", "distinctive"), ("self_bleu", "distinctive"), ("vocabulary", "told_apart"))
    shown = ("distinctive", "told_apart", "distinct_2", "self_bleu", "vocabulary", "words")
    return Study("Diversity of a mask's candidates against their quality, on the true masks", points, "true", shown, panels)


def _places() -> Study:
    chosen = PlaceConfig().forms
    choices = (
        {"as set: " + ", ".join(chosen): chosen} | {f"{form} alone": (form,) for form in FORMS} | {"all six": tuple(FORMS)}
    )
    points = tuple(
        Point(label, rules=RECOMMENDED, switched={"places.forms": forms} | WITHOUT_LISTENER, strategy="place")
        for label, forms in choices.items()
    )
    panels = (("distinctive", "series"), ("objects", "series"), ("words", "series"))
    shown = ("true", "unique", "distinctive", "objects", "told_apart", "words")
    return Study("Forms of place words, at most two a mask, on stage 1's masks", points, "found", shown, panels)


STUDIES: dict[str, Callable[[], Study]] = {
    "parts": _parts,
    "look-alikes": _look_alikes,
    "thresholds": _thresholds,
    "calibration": _calibration,
    "diversity": _diversity,
    "places": _places,
}
