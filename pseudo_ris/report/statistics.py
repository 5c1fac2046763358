"""Computes the figures of the report: distributions, word counts, diversity and what a threshold keeps."""

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
"""Minimum bar width relative to the values, well above floating-point resolution."""
OUTLIERS = 2.0
"""Percentage of the values at each end that may go into the outermost bars."""
LARGEST = 1e12
"""Larger absolute values always count as outliers."""
FROM_ZERO = 10
"""Histograms of integers start at 0 if the smallest value is at most this."""
SELF_BLEU_SAMPLE = 200
SAMPLE_SEED = 0
CURVE_POINTS = 101
WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
FUNCTION_WORDS = frozenset(
    ("a", "an", "and", "at", "by", "for", "from", "in", "is", "of", "on", "or", "that", "the", "to", "with")
)


@dataclass(frozen=True)
class Histogram:
    """A stacked histogram. edges: n + 1 values, ascending. counts: name of a series -> n counts.

    below, above: number of values outside the edges, which count in the outermost bars. whole: the values are integers.
    """

    edges: np.ndarray
    counts: Mapping[str, np.ndarray]
    below: int
    above: int
    whole: bool

    def range_of(self, bar: int, factor: float = 1) -> str:
        """Returns the range of a bar as text; values are multiplied by `factor`."""
        left, right = self.edges[bar : bar + 2]
        if self.whole:
            first, last = math.ceil(left), math.floor(right)
            return f"{first}" if first == last else f"{first} to {last}"
        return f"{left * factor:.4g} to {right * factor:.4g}"


@dataclass(frozen=True)
class Curve:
    """What each threshold keeps. shares: name of a series -> shares in 0..1."""

    thresholds: np.ndarray
    shares: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Diversity:
    """Diversity of sentences; None if there is nothing to count.

    distinct_1, distinct_2: number of different words (word pairs) over the number of all (Li et al., 2016). self_bleu: mean
    BLEU-4 of each of `sampled` sentences with the others as references (Zhu et al., 2018).
    """

    sentences: int
    different: int
    distinct_1: float | None
    distinct_2: float | None
    self_bleu: float | None
    sampled: int


def histogram(series: Mapping[str, np.ndarray], whole: bool = False) -> Histogram:
    """Returns a histogram of several series with common edges; outliers (see OUTLIERS) go into the outermost bars.

    whole: values are integers; edges lie halfway between two of them.
    """
    values = np.concatenate(list(series.values())) if series else np.zeros(0)
    edges = _whole_edges(values) if whole else _edges(values)
    counts = {name: np.histogram(np.clip(own, edges[0], edges[-1]), edges)[0] for name, own in series.items()}
    return Histogram(edges, counts, int((values < edges[0]).sum()), int((values > edges[-1]).sum()), whole)


def nice_step(step: float) -> float:
    """Returns the smallest 1, 2 or 5 times a power of ten that is at least `step`; 1 if `step` is not positive."""
    if step <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= step * (1 - 1e-9))


def words(text: str) -> list[str]:
    """Returns the words of a sentence in lower case, without punctuation."""
    return WORD.findall(text.lower())


def word_counts(sentences: Iterable[str]) -> Counter[str]:
    """Counts the words of the sentences, without function words."""
    return Counter(word for sentence in sentences for word in words(sentence) if word not in FUNCTION_WORDS)


def diversity(sentences: Sequence[str]) -> Diversity:
    """Computes the diversity of sentences; self-BLEU uses a fixed random sample."""
    tokens = [words(sentence) for sentence in sentences]
    sample = tokens
    if len(tokens) > SELF_BLEU_SAMPLE:
        chosen = np.random.default_rng(SAMPLE_SEED).choice(len(tokens), SELF_BLEU_SAMPLE, replace=False)
        sample = [tokens[index] for index in np.sort(chosen)]
    return Diversity(
        len(sentences), len(set(sentences)), distinct(tokens, 1), distinct(tokens, 2), self_bleu(sample), len(sample)
    )


def distinct(tokens: Iterable[Sequence[str]], n: int) -> float | None:
    """Returns the number of different n-grams over the number of all n-grams."""
    grams = Counter(gram for own in tokens for gram in zip(*(own[start:] for start in range(n)), strict=False))
    return len(grams) / grams.total() if grams else None


def self_bleu(tokens: Sequence[Sequence[str]]) -> float | None:
    """Returns the mean BLEU-4 of each sentence with all others as references (NLTK's smoothing method 1)."""
    if len(tokens) < 2:
        return None
    smoothing = SmoothingFunction().method1
    scores = (
        sentence_bleu([*tokens[:index], *tokens[index + 1 :]], own, smoothing_function=smoothing)
        for index, own in enumerate(tokens)
    )
    return math.fsum(scores) / len(tokens)


def selection_curve(table: CandidateTable, kept: np.ndarray, threshold: float) -> Curve:
    """Returns the shares of candidates and masks that DoC > t keeps, for t from 0 to above the DoC of most candidates.

    kept: bool [C], the candidates that `threshold` keeps. For the only mask of an image, DoC is not a ratio, so all thresholds
    keep the same candidates.
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
