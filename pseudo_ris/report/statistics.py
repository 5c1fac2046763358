"""The report's figures: distributions, words, diversity and what a threshold keeps. Pure functions of arrays and texts."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

from pseudo_ris.pairs.candidate_table import CandidateTable

BINS = 50
RESOLUTION = 1e-9
"""The narrowest bar, as a share of the values: narrower ones could not be told apart as floating-point numbers."""
OUTLIERS = 2.0
"""Per cent of the values at either end that a histogram may take into its outermost bars."""
LARGEST = 1e12
"""Values beyond are outliers whatever the others are."""
FROM_ZERO = 10
"""Whole numbers are shown from 0 on when the smallest is not larger."""
SELF_BLEU_SAMPLE = 200
SAMPLE_SEED = 0
CURVE_POINTS = 101
WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
FUNCTION_WORDS = frozenset(
    ("a", "an", "and", "at", "by", "for", "from", "in", "is", "of", "on", "or", "that", "the", "to", "with")
)


@dataclass(frozen=True)
class Histogram:
    """Counts of values between `edges` (n + 1, ascending), stacked: name of a series -> n counts.

    below, above: values outside the edges; they are counted in the outermost bars. whole: the values are whole numbers, each
    bar is of those between its edges.
    """

    edges: np.ndarray
    counts: Mapping[str, np.ndarray]
    below: int
    above: int
    whole: bool

    def range_of(self, bar: int, factor: float = 1) -> str:
        """What a bar counts, for a person; values are multiplied by `factor`."""
        left, right = self.edges[bar : bar + 2]
        if self.whole:
            first, last = math.ceil(left), math.floor(right)
            return f"{first}" if first == last else f"{first} to {last}"
        return f"{left * factor:.4g} to {right * factor:.4g}"


@dataclass(frozen=True)
class Curve:
    """What each threshold keeps. shares: name of a series -> shares from 0 to 1."""

    thresholds: np.ndarray
    shares: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Diversity:
    """How varied sentences are.

    distinct_1, distinct_2: different words, and word pairs, over all of them (Li et al., 2016). self_bleu: mean BLEU-4 of a
    sentence with the others as references (Zhu et al., 2018), of `sampled` sentences. None where there is nothing to count.
    """

    sentences: int
    different: int
    distinct_1: float | None
    distinct_2: float | None
    self_bleu: float | None
    sampled: int


def histogram(series: Mapping[str, np.ndarray], whole: bool = False) -> Histogram:
    """Histogram of some series on common edges. Outliers (see OUTLIERS) do not stretch it: they go into the outermost bars.

    whole: values are whole numbers; a bar's edges lie halfway between two of them.
    """
    values = np.concatenate(list(series.values())) if series else np.zeros(0)
    edges = _whole_edges(values) if whole else _edges(values)
    counts = {name: np.histogram(np.clip(own, edges[0], edges[-1]), edges)[0] for name, own in series.items()}
    return Histogram(edges, counts, int((values < edges[0]).sum()), int((values > edges[-1]).sum()), whole)


def nice_step(step: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is not less than `step`; 1 for nothing positive."""
    if step <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= step * (1 - 1e-9))


def words(text: str) -> list[str]:
    """Words of a sentence in lower case, without punctuation."""
    return WORD.findall(text.lower())


def word_counts(sentences: Iterable[str]) -> Counter[str]:
    """How often each word occurs, function words left out."""
    return Counter(word for sentence in sentences for word in words(sentence) if word not in FUNCTION_WORDS)


def diversity(sentences: Sequence[str]) -> Diversity:
    """Diversity of sentences; self-BLEU of a sample that is always the same for the same sentences."""
    tokens = [words(sentence) for sentence in sentences]
    sample = tokens
    if len(tokens) > SELF_BLEU_SAMPLE:
        chosen = np.random.default_rng(SAMPLE_SEED).choice(len(tokens), SELF_BLEU_SAMPLE, replace=False)
        sample = [tokens[index] for index in np.sort(chosen)]
    return Diversity(
        len(sentences), len(set(sentences)), distinct(tokens, 1), distinct(tokens, 2), self_bleu(sample), len(sample)
    )


def distinct(tokens: Iterable[Sequence[str]], n: int) -> float | None:
    """Different n-grams over all n-grams."""
    grams = Counter(gram for own in tokens for gram in zip(*(own[start:] for start in range(n)), strict=False))
    return len(grams) / grams.total() if grams else None


def self_bleu(tokens: Sequence[Sequence[str]]) -> float | None:
    """Mean BLEU-4 of each sentence with all others as references; n-grams of which none occur count 0.1 (NLTK's method 1)."""
    if len(tokens) < 2:
        return None
    smoothing = SmoothingFunction().method1
    scores = (
        sentence_bleu([*tokens[:index], *tokens[index + 1 :]], own, smoothing_function=smoothing)
        for index, own in enumerate(tokens)
    )
    return math.fsum(scores) / len(tokens)


def selection_curve(table: CandidateTable, kept: np.ndarray, threshold: float) -> Curve:
    """Shares of candidates and of masks that DoC > t keeps, for t from 0 to beyond what most candidates reach.

    kept: bool [C], what a threshold leaves; of an image's only mask, whose DoC is no ratio, every threshold leaves the same.
    """
    only = table.one_mask[table.row]
    reach = np.where(only, np.where(kept, np.inf, -np.inf), table.doc)
    best = np.full(len(table.seg_id), -np.inf)
    np.maximum.at(best, table.row, reach)
    usual = float(np.percentile(table.doc, 95)) if len(table.doc) else 0.0
    thresholds = np.linspace(0, max(1.0, 2 * threshold, usual), CURVE_POINTS)
    return Curve(thresholds, {"candidates": _share_above(reach, thresholds), "masks": _share_above(best, thresholds)})


def _share_above(values: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    above = len(values) - np.searchsorted(np.sort(values), thresholds, side="right")
    return above / max(1, len(values))


def _edges(values: np.ndarray) -> np.ndarray:
    if not len(values):
        return np.array([0.0, 1.0])
    values = values.clip(-LARGEST, LARGEST)
    low, high = np.percentile(values, (OUTLIERS, 100 - OUTLIERS))
    slack = (high - low) / 5
    low, high = max(low - slack, values.min()), min(high + slack, values.max())
    step = nice_step(max((high - low) / BINS, abs(low) * RESOLUTION, abs(high) * RESOLUTION))
    first = math.floor(low / step + 1e-9)
    last = max(math.ceil(high / step - 1e-9), first + 1)
    return np.arange(first, last + 1) * step


def _whole_edges(values: np.ndarray) -> np.ndarray:
    if not len(values):
        return np.array([-0.5, 0.5])
    low, high = int(values.min()), math.ceil(np.percentile(values, 100 - OUTLIERS))
    low = 0 if low <= FROM_ZERO else low
    step = max(1, math.ceil((high - low + 1) / BINS))
    return np.arange(low, high + step + 1, step) - 0.5
