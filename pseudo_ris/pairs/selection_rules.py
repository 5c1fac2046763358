"""The rules that choose among the candidates of a pairs CSV, over all of them at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from pseudo_ris.config import ScoringConfig
from pseudo_ris.errors import UserError
from pseudo_ris.models.clip.token_counts import fit_tokens
from pseudo_ris.pairs.candidate_table import CandidateTable

TRAINERS_TOKENS = 17


@dataclass(frozen=True)
class SelectionRules:
    """What a candidate must fulfil to be left over; None leaves a rule out. The rules apply in this order.

    Args:
        min_area: masks that cover a smaller share of their image lose all candidates.
        max_area: masks that cover a larger one, too.
        max_tokens: sentences of more CLIP tokens go, start and end included.
        duplicates: "drop" leaves of a mask's equal sentences the first. Sentences are equal when they differ in case and spaces
            only.
        uniqueness: must be greater; not asked of the only mask of an image, whose uniqueness is no ratio.
        correctness: must be greater.
        doc: DoC must be greater; of the only mask of an image, whose DoC is no ratio, the better half by DoC stays.
        fallback: of a mask that uniqueness, correctness and doc leave nothing, "unfiltered" brings back what it had before.
        ambiguous: "drop" takes sentences that are still left to several masks of one image from all of these.
        top_k: at most so many candidates of a mask stay, the best by DoC, the first of equals.
        per_image: at most so many candidates of an image, likewise.
    """

    min_area: float | None = None
    max_area: float | None = None
    max_tokens: int | None = None
    duplicates: Literal["keep", "drop"] = "keep"
    uniqueness: float | None = None
    correctness: float | None = None
    doc: float | None = None
    fallback: Literal["drop", "unfiltered"] = "drop"
    ambiguous: Literal["keep", "drop"] = "keep"
    top_k: int | None = None
    per_image: int | None = None

    def __post_init__(self) -> None:
        for name in ("min_area", "max_area"):
            if (share := getattr(self, name)) is not None and not 0 <= share <= 1:
                raise UserError(f"{_option(name)} {share:g}: must be a share of the image, from 0 to 1, or off")
        for name in ("uniqueness", "correctness", "doc"):
            if (bound := getattr(self, name)) is not None and not math.isfinite(bound):
                raise UserError(f"{_option(name)} {bound}: must be a finite number, or off")
        for name in ("max_tokens", "top_k", "per_image"):
            if (count := getattr(self, name)) is not None and count < 1:
                raise UserError(f"{_option(name)} {count}: must be 1 or more, or off")

    @property
    def needs_areas(self) -> bool:
        """Whether a rule asks for the areas of the masks."""
        return self.min_area is not None or self.max_area is not None


PRESETS = {
    "recommended": SelectionRules(
        max_tokens=TRAINERS_TOKENS, duplicates="drop", doc=ScoringConfig().threshold, fallback=ScoringConfig().fallback
    ),
    "paper": SelectionRules(doc=1.0, fallback="unfiltered"),
}


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


@dataclass(frozen=True)
class Step:
    """What is left after a rule, whose name is for a person: numbers of candidates, and of masks that have one or more."""

    rule: str
    candidates: int
    masks: int


class Selection:
    """Applies rules to a table one after the other. kept: what is left, bool [C]. steps: the counts, the first of all."""

    def __init__(self, table: CandidateTable) -> None:
        self._table = table
        self._images = table.image_id.codes[table.row]
        self.kept = np.ones(len(table.row), bool)
        self.steps: list[Step] = []
        self._note("read")

    def apply(self, rules: SelectionRules, areas: np.ndarray | None = None) -> None:
        """Applies all of `rules`, in their order. areas: shares of the masks, float64 [R]; only rules on areas need them.

        Raises UserError when the table has no column that a rule asks for.
        """
        self._apply_area(rules, areas)
        self._apply_sentences(rules)
        self._apply_scores(rules)
        self._apply_counts(rules)

    def _apply_area(self, rules: SelectionRules, areas: np.ndarray | None) -> None:
        if rules.min_area is not None:
            self._keep(f"masks of at least {rules.min_area:g} of the image", (areas >= rules.min_area)[self._table.row])
        if rules.max_area is not None:
            self._keep(f"masks of at most {rules.max_area:g} of the image", (areas <= rules.max_area)[self._table.row])

    def _apply_sentences(self, rules: SelectionRules) -> None:
        text = self._table.text
        if rules.max_tokens is not None:
            self._keep(f"at most {rules.max_tokens} CLIP tokens", fit_tokens(text.values, rules.max_tokens)[text.codes])
        if rules.duplicates == "drop":
            first = np.zeros(len(text.codes), bool)
            first[self._first_uses()] = True
            self._keep("each sentence once a mask", first)

    def _apply_scores(self, rules: SelectionRules) -> None:
        before = self.kept
        one_mask = self._table.one_mask[self._table.row]
        if rules.uniqueness is not None:
            self._keep(f"uniqueness > {rules.uniqueness:g}", one_mask | (self._score("uniqueness") > rules.uniqueness))
        if rules.correctness is not None:
            self._keep(f"correctness > {rules.correctness:g}", self._score("correctness") > rules.correctness)
        if rules.doc is not None:
            passes = np.where(one_mask, self._better_half(), self._table.doc > rules.doc)
            self._keep(f"DoC > {rules.doc:g}, or an only mask's better half", passes)
        if rules.fallback == "unfiltered":
            emptied = self._left_by_row() == 0
            self.kept = self.kept | (before & emptied[self._table.row])
            self._note("fallback: all of a mask where none passes")

    def _apply_counts(self, rules: SelectionRules) -> None:
        if rules.ambiguous == "drop":
            self._keep("no sentence of two masks of an image", ~self._ambiguous())
        if rules.top_k is not None:
            self._keep(f"best {rules.top_k} of a mask", self._ranks(self._table.row) < rules.top_k)
        if rules.per_image is not None:
            self._keep(f"best {rules.per_image} of an image", self._ranks(self._images) < rules.per_image)

    def _keep(self, rule: str, passes: np.ndarray) -> None:
        """Leaves of what is left the candidates that pass, bool [C]."""
        self.kept = self.kept & passes
        self._note(rule)

    def _note(self, rule: str) -> None:
        self.steps.append(Step(rule, int(self.kept.sum()), int((self._left_by_row() > 0).sum())))

    def _left_by_row(self) -> np.ndarray:
        """Candidates left to each row, int64 [R]."""
        return np.bincount(self._table.row[self.kept], minlength=len(self._table.seg_id))

    def _score(self, name: str) -> np.ndarray:
        if name not in self._table.scores:
            raise UserError(f"the pairs have no column {name}; leave --{name} out, or write the pairs again with stage 2")
        return self._table.scores[name]

    def _better_half(self) -> np.ndarray:
        """The better half by DoC of what is left of each row, the larger one of an odd number: bool [C]."""
        return self._ranks(self._table.row) < ((self._left_by_row() + 1) // 2)[self._table.row]

    def _ranks(self, groups: np.ndarray) -> np.ndarray:
        """Place of each candidate that is left among those of its group, 0 the best by DoC, the first of equals: int64 [C].

        groups: number of each candidate's group, int64 [C]. The place of one that is not left means nothing.
        """
        left = np.flatnonzero(self.kept)
        best_first = left[np.lexsort((-self._table.doc[left], groups[left]))]
        in_order = groups[best_first]
        ranks = np.zeros(len(self.kept), np.int64)
        ranks[best_first] = np.arange(len(left)) - np.searchsorted(in_order, in_order)
        return ranks

    @cached_property
    def _sentences(self) -> np.ndarray:
        """Number of each candidate's sentence, the same for those that differ in case and spaces only: int64 [C]."""
        numbers: dict[str, int] = {}
        of_value = [numbers.setdefault(" ".join(text.lower().split()), len(numbers)) for text in self._table.text.values]
        return np.array(of_value, np.int64)[self._table.text.codes]

    def _first_uses(self) -> np.ndarray:
        """Places of the candidates that are left and whose sentence is not left to an earlier one of their mask: int64."""
        left = np.flatnonzero(self.kept)
        return left[_first_places(_pairs(self._table.row, self._sentences)[left])]

    def _ambiguous(self) -> np.ndarray:
        """Whether each candidate's sentence is left to several masks of its image, bool [C]."""
        in_image = _pairs(self._images, self._sentences)
        sentences, masks = np.unique(in_image[self._first_uses()], return_counts=True)
        return np.isin(in_image, sentences[masks > 1])


def _pairs(groups: np.ndarray, sentences: np.ndarray) -> np.ndarray:
    """A number for each pair of a group and a sentence, int64 [C]."""
    return groups * (sentences.max(initial=0) + 1) + sentences


def _first_places(numbers: np.ndarray) -> np.ndarray:
    """Where each number is for the first time, int64."""
    return np.unique(numbers, return_index=True)[1]
