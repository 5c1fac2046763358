"""A fitted combination of a candidate's scores: the probability that an expression is right, kept in a small JSON file.

A logistic regression of the scores below, calibrated by an isotonic regression. `pairs.fitting` makes it from labelled
candidates; here it is read and applied, with NumPy alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pseudo_ris.errors import UserError
from pseudo_ris.io.json_fields import entries_of, field, read_json
from pseudo_ris.pairs.candidate_table import CandidateTable

FORMAT = "pseudo-ris fitted rule 1"
SMALLEST = 1e-6
"""Scores are moved this far from 0 and 1 before a logarithm."""


def _share(scores: np.ndarray) -> np.ndarray:
    return scores


def _log(scores: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(scores, SMALLEST))


def _logit(scores: np.ndarray) -> np.ndarray:
    inside = scores.clip(SMALLEST, 1 - SMALLEST)
    return np.log(inside / (1 - inside))


FEATURES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "agreement": _share,
    "word_agreement": _share,
    "recognition": _log,
    "listener": _logit,
    "confidence": _log,
    "uniqueness": _log,
    "doc": _log,
}
"""Score -> how it enters the regression."""
RATIOS = ("uniqueness", "doc")
"""Scores that are no ratio for the only mask of an image; they count as 1 there."""


@dataclass(frozen=True)
class Term:
    """One score of the regression: (feature - mean) / scale, times weight."""

    score: str
    mean: float
    scale: float
    weight: float


@dataclass(frozen=True)
class FittedRule:
    """The probability that an expression is right: calibration(sigmoid(intercept + sum of the terms)).

    Args:
        terms: one per score of FEATURES.
        intercept: of the regression.
        calibration: points (regression's probability, calibrated probability), both ascending; linear in between.
        fitted_on: what it was fitted on and how well it does on images that were left out, for the reader of the file.
    """

    terms: tuple[Term, ...]
    intercept: float
    calibration: tuple[tuple[float, float], ...]
    fitted_on: dict[str, Any]

    def probability(self, table: CandidateTable) -> np.ndarray:
        """The probability of each candidate, float64 [C]. Raises UserError when the table lacks a score."""
        total = np.full(len(table.row), self.intercept)
        for term in self.terms:
            total += (feature(table, term.score) - term.mean) / term.scale * term.weight
        return np.interp(np.exp(-np.logaddexp(0, -total)), *np.array(self.calibration).T)

    def scored(self, table: CandidateTable) -> CandidateTable:
        """The table with the score `probability`. Raises UserError when it lacks a score that the rule needs."""
        return replace(table, scores={**table.scores, "probability": self.probability(table)})

    def text(self) -> str:
        """The rule as JSON."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n"


def feature(table: CandidateTable, score: str) -> np.ndarray:
    """A score of each candidate as the regression takes it, float64 [C]. Raises UserError when the table lacks it."""
    if score not in table.scores:
        raise UserError(f"the pairs have no column {score}, which a fitted rule needs; run stage 2 again")
    values = table.scores[score]
    if score in RATIOS:
        values = np.where(table.one_mask[table.row], 1.0, values)
    return FEATURES[score](values)


def read_rule(path: Path) -> FittedRule:
    """Reads what `FittedRule.text` wrote. Raises UserError that names the file and field."""
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path}: is no fitted rule; give a file that `pseudo-ris fit` wrote")
    terms = []
    for entry, where in entries_of(content, path, "terms"):
        score = field(entry, "score", str, where)
        if score not in FEATURES:
            raise UserError(f"{where}: score {score[:40]!r} is unknown; fit the rule again")
        terms.append(Term(score, *(field(entry, name, float, where) for name in ("mean", "scale", "weight"))))
    points, intercept = field(content, "calibration", list, str(path)), field(content, "intercept", float, str(path))
    pairs = [isinstance(point, list) and len(point) == 2 and all(isinstance(x, float) for x in point) for point in points]
    numbers = [intercept, *(x for term in terms for x in (term.mean, term.scale, term.weight))]
    if not points or not all(pairs) or not np.isfinite([*numbers, *np.ravel(points)]).all():
        raise UserError(f"{path}: calibration or a number is damaged; fit the rule again")
    if min((term.scale for term in terms), default=1) <= 0 or np.any(np.diff(points, axis=0) < 0):
        raise UserError(f"{path}: a scale is not above 0, or calibration does not ascend; fit the rule again")
    return FittedRule(tuple(terms), intercept, tuple(map(tuple, points)), content.get("fitted_on", {}))
