"""The rules of `pseudo-ris select`, applied to all candidates of a pairs CSV at once with NumPy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from pseudo_ris.distinctiveness.nouns import content_words
from pseudo_ris.distinctiveness.places import PLACE
from pseudo_ris.errors import UserError
from pseudo_ris.models.clip.token_counts import fit_tokens
from pseudo_ris.pairs.candidate_table import CandidateTable

TRAINERS_TOKENS = 17
"""Text length (`word_len`) of CRIS and ETRIS, in CLIP tokens."""


AT_LEAST = ("agreement", "word_agreement", "recognition", "listener", "confidence", "probability")
"""Scores in [0, 1] of which a candidate must have at least the given value."""


@dataclass(frozen=True)
class SelectionRules:
    """Conditions that a candidate must meet to be kept, applied in the order of the fields; None switches a rule off.

    Args:
        min_area: drop all candidates of masks that cover less than this fraction of their image.
        max_area: drop all candidates of masks that cover more than this fraction.
        max_tokens: drop sentences with more CLIP tokens than this, counting the start and end tokens.
        places: "drop" removes expressions with place words. Where they are kept, the rules on scores do not apply to them.
        duplicates: "drop" keeps only the first of a mask's equal sentences; case and spaces are ignored.
        agreement: keep candidates whose head noun at least this share of the mask's candidates have.
        word_agreement: keep candidates of whose other content words at least this share of the mask's candidates say each.
        recognition: keep candidates whose head noun has at least this recognition (1: CLIP prefers it).
        listener: keep candidates with at least this probability to mean their mask.
        confidence: keep candidates whose least likely token has at least this probability.
        probability: keep candidates with at least this probability to be right, by a fitted rule (see
            fitted.FittedRule.scored).
        uniqueness: keep candidates above this value; does not apply to the only mask of an image, where it is not a ratio.
        correctness: keep candidates above this value.
        doc: keep candidates with a DoC above this value; of the only mask of an image, where DoC is not a ratio, keep the
            better half by DoC.
        fallback: "unfiltered" restores a mask's candidates when the rules on scores drop all of them.
        redundant: "drop" removes a sentence that says all content words of another sentence left to its mask, and more: minimal
            wording. Expressions with place words are neither removed nor compared.
        ambiguous: "drop" removes sentences that several masks of an image still share.
        rank: what `top_k` and `per_image` prefer: "doc"; or "support", how often the mask's candidates repeat the sentence
            times its listener's probability and its confidence, at equal support the higher DoC.
        top_k: keep at most this many candidates per mask, and as many with place words; ties keep the file order.
        per_image: the same per image.
    """

    min_area: float | None = None
    max_area: float | None = None
    max_tokens: int | None = None
    places: Literal["keep", "drop"] = "keep"
    duplicates: Literal["keep", "drop"] = "keep"
    agreement: float | None = None
    word_agreement: float | None = None
    recognition: float | None = None
    listener: float | None = None
    confidence: float | None = None
    probability: float | None = None
    uniqueness: float | None = None
    correctness: float | None = None
    doc: float | None = None
    fallback: Literal["drop", "unfiltered"] = "drop"
    redundant: Literal["keep", "drop"] = "keep"
    ambiguous: Literal["keep", "drop"] = "keep"
    rank: Literal["doc", "support"] = "doc"
    top_k: int | None = None
    per_image: int | None = None

    def __post_init__(self) -> None:
        for name in ("min_area", "max_area", *AT_LEAST):
            if (share := getattr(self, name)) is not None and not 0 <= share <= 1:
                raise UserError(f"{_option(name)} {share:g}: must be a fraction from 0 to 1, or off")
        for name in ("uniqueness", "correctness", "doc"):
            if (bound := getattr(self, name)) is not None and not math.isfinite(bound):
                raise UserError(f"{_option(name)} {bound}: must be a finite number, or off")
        for name in ("max_tokens", "top_k", "per_image"):
            if (count := getattr(self, name)) is not None and count < 1:
                raise UserError(f"{_option(name)} {count}: must be 1 or more, or off")

    @property
    def needs_areas(self) -> bool:
        """True if a rule needs the areas of the masks."""
        return self.min_area is not None or self.max_area is not None


PRESETS = {
    "recommended": SelectionRules(
        max_tokens=TRAINERS_TOKENS, duplicates="drop", agreement=0.75, recognition=0.3, listener=0.9, rank="support", top_k=2
    ),
    "paper": SelectionRules(places="drop", doc=1.0, fallback="unfiltered"),
    "fitted": SelectionRules(max_tokens=TRAINERS_TOKENS, duplicates="drop", probability=0.9, rank="support", top_k=2),
}
"""All but `fitted` need no fitting. `recommended` was chosen on drawn validation scenes (docs/results/better-pairs.md)."""


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


@dataclass(frozen=True)
class Step:
    """How many candidates, and masks with a candidate, remain after a rule. rule: its name, for printing."""

    rule: str
    candidates: int
    masks: int


class Selection:
    """Applies rules to a table.

    kept: the candidates that remain, bool [C]; None starts with all of them. steps: the counts before the first rule and after
    each rule.
    """

    def __init__(self, table: CandidateTable, kept: np.ndarray | None = None) -> None:
        self._table = table
        self._images = table.image_id.codes[table.row]
        self.kept = np.ones(len(table.row), bool) if kept is None else kept
        self.steps: list[Step] = []
        self._note("read")

    def apply(self, rules: SelectionRules, areas: np.ndarray | None = None) -> None:
        """Applies all rules. areas: fraction of the image that each mask covers, float64 [R]; needed by the area rules only.

        Raises UserError when the table lacks a column that a rule needs.
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
        if rules.places == "drop":
            self._keep("no place words", ~self._placed)
        if rules.max_tokens is not None:
            self._keep(f"at most {rules.max_tokens} CLIP tokens", fit_tokens(text.values, rules.max_tokens)[text.codes])
        if rules.duplicates == "drop":
            first = np.zeros(len(text.codes), bool)
            first[self._first_uses()] = True
            self._keep("each sentence once per mask", first)

    def _apply_scores(self, rules: SelectionRules) -> None:
        before = self.kept
        one_mask = self._table.one_mask[self._table.row]
        for name in AT_LEAST:
            if (bound := getattr(rules, name)) is not None:
                self._keep(f"{name.replace('_', ' ')} >= {bound:g}", self._placed | (self._score(name) >= bound))
        if rules.uniqueness is not None:
            passes = one_mask | (self._score("uniqueness") > rules.uniqueness)
            self._keep(f"uniqueness > {rules.uniqueness:g}", self._placed | passes)
        if rules.correctness is not None:
            passes = self._score("correctness") > rules.correctness
            self._keep(f"correctness > {rules.correctness:g}", self._placed | passes)
        if rules.doc is not None:
            passes = np.where(one_mask, self._better_half(), self._table.doc > rules.doc)
            self._keep(f"DoC > {rules.doc:g}, or the better half of an only mask", self._placed | passes)
        if rules.fallback == "unfiltered":
            emptied = self._left_by_row() == 0
            self.kept = self.kept | (before & emptied[self._table.row])
            self._note("fallback: all candidates of masks where none passes")

    def _apply_counts(self, rules: SelectionRules) -> None:
        if rules.redundant == "drop":
            self._keep("no sentence that says another one's words and more", ~self._redundant())
        if rules.ambiguous == "drop":
            self._keep("no sentence shared by masks of an image", ~self._ambiguous())
        goodness = self._support if rules.rank == "support" else self._table.doc
        for count, groups, of in ((rules.top_k, self._table.row, "mask"), (rules.per_image, self._images, "image")):
            if count is not None:
                self._keep(f"best {count} per {of}", self._ranks(groups * 2 + self._placed, goodness) < count)

    def _keep(self, rule: str, passes: np.ndarray) -> None:
        """Drops the candidates that do not pass. passes: bool [C]."""
        self.kept = self.kept & passes
        self._note(rule)

    def _note(self, rule: str) -> None:
        self.steps.append(Step(rule, int(self.kept.sum()), int((self._left_by_row() > 0).sum())))

    def _left_by_row(self) -> np.ndarray:
        """Returns how many candidates each row still has, int64 [R]."""
        return np.bincount(self._table.row[self.kept], minlength=len(self._table.seg_id))

    def _score(self, name: str) -> np.ndarray:
        if name not in self._table.scores:
            if name == "probability":
                raise UserError("--probability needs a fitted rule; give the file that `pseudo-ris fit` wrote with --fitted")
            raise UserError(
                f"the pairs have no column {name}; run stage 2 again, or omit {_option(name)} (--preset paper needs DoC alone)"
            )
        return self._table.scores[name]

    def _better_half(self) -> np.ndarray:
        """Marks the better half by DoC of each row's remaining candidates, rounded up: bool [C]."""
        return self._ranks(self._table.row, self._table.doc) < ((self._left_by_row() + 1) // 2)[self._table.row]

    def _ranks(self, groups: np.ndarray, goodness: np.ndarray) -> np.ndarray:
        """Ranks the remaining candidates of each group, int64 [C]: 0 is the best; ties are broken by DoC, then by file order.

        groups: group of each candidate, int64 [C]. goodness: float64 [C]. Ranks of dropped candidates are undefined.
        """
        left = np.flatnonzero(self.kept)
        best_first = left[np.lexsort((-self._table.doc[left], -goodness[left], groups[left]))]
        in_order = groups[best_first]
        ranks = np.zeros(len(self.kept), np.int64)
        ranks[best_first] = np.arange(len(left)) - np.searchsorted(in_order, in_order)
        return ranks

    @cached_property
    def _placed(self) -> np.ndarray:
        """Marks expressions with place words, bool [C]."""
        strategies = self._table.texts.get("strategy")
        if strategies is None:
            return np.zeros(len(self._table.row), bool)
        return np.array([value == PLACE for value in strategies.values], bool)[strategies.codes]

    @cached_property
    def _support(self) -> np.ndarray:
        """How often the mask's candidates say each candidate's sentence, times listener and confidence, float64 [C]."""
        _, sentence, repeats = np.unique(_pairs(self._table.row, self._sentences), return_inverse=True, return_counts=True)
        return repeats[sentence] * self._score("listener") * self._score("confidence")

    @cached_property
    def _sentences(self) -> np.ndarray:
        """Id of each candidate's sentence, ignoring case and spaces: int64 [C]."""
        numbers: dict[str, int] = {}
        of_value = [numbers.setdefault(" ".join(text.lower().split()), len(numbers)) for text in self._table.text.values]
        return np.array(of_value, np.int64)[self._table.text.codes]

    def _first_uses(self) -> np.ndarray:
        """Indices of the remaining candidates, without those that repeat an earlier sentence of their mask: int64."""
        left = np.flatnonzero(self.kept)
        return left[np.unique(_pairs(self._table.row, self._sentences)[left], return_index=True)[1]]

    def _redundant(self) -> np.ndarray:
        """Marks candidates whose content words strictly include those of another remaining one of their mask, bool [C]."""
        text, redundant = self._table.text, np.zeros(len(self.kept), bool)
        said: dict[int, frozenset[str]] = {}
        left = np.flatnonzero(self.kept & ~self._placed)
        for own in np.split(left, np.flatnonzero(np.diff(self._table.row[left])) + 1):
            codes = text.codes[own]
            for code in set(codes.tolist()) - said.keys():
                said[code] = frozenset(content_words(text.values[code]))
            sets = {said[code] for code in codes.tolist()} - {frozenset()}  # "it" is not what "a red cup" needs
            longer = {words for words in sets if any(other < words for other in sets)}
            redundant[own] = [said[code] in longer for code in codes.tolist()]
        return redundant

    def _ambiguous(self) -> np.ndarray:
        """Marks candidates whose sentence remains for several masks of the image, bool [C]."""
        in_image = _pairs(self._images, self._sentences)
        sentences, masks = np.unique(in_image[self._first_uses()], return_counts=True)
        return np.isin(in_image, sentences[masks > 1])


def _pairs(groups: np.ndarray, sentences: np.ndarray) -> np.ndarray:
    """Encodes (group, sentence) as one integer, int64 [C]."""
    return groups * (sentences.max(initial=0) + 1) + sentences
