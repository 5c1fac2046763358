"""The report's figures against their slow, obvious versions."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from report_data import SmallSet

from pseudo_ris.pairs.candidate_table import read_table
from pseudo_ris.pairs.selection_rules import Selection, SelectionRules
from pseudo_ris.report import statistics

SENTENCES = ["a red ball", "the red ball on the left", "a cup", "small blue cup on a table", "ball", "a red ball", ""]


def slow_bleu(sentence: list[str], references: list[list[str]]) -> float:
    """BLEU-4 by its definition (Papineni et al., 2002); a precision of 0 counts as 0.1 over its denominator."""
    logs = []
    for n in range(1, 5):
        grams = [tuple(sentence[at : at + n]) for at in range(len(sentence) - n + 1)]
        clipped = 0
        for gram in set(grams):
            most = max(sum(tuple(r[at : at + n]) == gram for at in range(len(r) - n + 1)) for r in references)
            clipped += min(grams.count(gram), most)
        if n == 1 and clipped == 0:
            return 0.0
        logs.append(math.log((clipped or 0.1) / max(1, len(grams))))
    closest = min((abs(len(reference) - len(sentence)), len(reference)) for reference in references)[1]
    penalty = 1.0 if len(sentence) > closest else math.exp(1 - closest / len(sentence))
    return penalty * math.exp(sum(logs) / 4)


def test_self_bleu_is_its_definition():
    tokens = [statistics.words(sentence) for sentence in SENTENCES if sentence]
    slow = [slow_bleu(own, tokens[:place] + tokens[place + 1 :]) for place, own in enumerate(tokens)]
    assert statistics.self_bleu(tokens) == pytest.approx(sum(slow) / len(slow), abs=1e-12)


def test_self_bleu_of_equal_sentences_is_1_and_of_one_sentence_nothing():
    assert statistics.self_bleu([["a", "red", "ball", "here"]] * 3) == pytest.approx(1.0)
    assert statistics.self_bleu([["a", "ball"]]) is None


@pytest.mark.parametrize("n", [1, 2])
def test_distinct_counts_different_over_all(n):
    tokens = [statistics.words(sentence) for sentence in SENTENCES]
    grams = [tuple(own[at : at + n]) for own in tokens for at in range(len(own) - n + 1)]
    assert statistics.distinct(tokens, n) == len(set(grams)) / len(grams)


def test_diversity_of_nothing_is_not_a_number_made_up():
    found = statistics.diversity([])
    assert (found.distinct_1, found.distinct_2, found.self_bleu) == (None, None, None)


def test_diversity_samples_the_same_sentences_each_time(monkeypatch):
    monkeypatch.setattr(statistics, "SELF_BLEU_SAMPLE", 20)
    sentences = [f"word{number} and word{number % 7} again" for number in range(500)]
    one, other = statistics.diversity(sentences), statistics.diversity(sentences)
    assert one == other
    assert (one.sentences, one.sampled) == (500, 20)


def test_words_are_lower_case_and_without_punctuation():
    assert statistics.words("The man's red-and-white T-shirt, isn't it? Ä 2 😀") == [
        "the", "man's", "red-and-white", "t-shirt", "isn't", "it", "ä", "2",
    ]  # fmt: skip
    assert statistics.word_counts(["the red ball", "a red cup"]) == Counter(red=2, ball=1, cup=1)


@pytest.mark.parametrize("whole", [False, True])
def test_histogram_counts_every_value_in_its_bar(whole):
    rng = np.random.default_rng(0)
    series = {"one": rng.normal(5, 2, 300), "other": np.append(rng.normal(8, 1, 200), [1e6, -1e6])}
    if whole:
        series = {name: values.round() for name, values in series.items()}
    counted = statistics.histogram(series, whole=whole)
    edges = counted.edges
    values = np.concatenate(list(series.values()))
    assert counted.below == sum(value < edges[0] for value in values)
    assert counted.above == sum(value > edges[-1] for value in values) >= 1
    for name, own in series.items():
        slow = [sum(left <= value < right for value in own) for left, right in pairwise(edges)]
        slow[0] += sum(value < edges[0] for value in own)
        slow[-1] += sum(value >= edges[-1] for value in own)
        assert counted.counts[name].tolist() == slow


@pytest.mark.parametrize(
    "values", [[], [3.0], [0.0, 0.0], [-5.0, -5.0], [1e-9, 2e-9], [0.2], [1e308, -1e308], [1e12, 1e12 + 2e-4]]
)
def test_histogram_of_few_values_has_ascending_edges(values):
    counted = statistics.histogram({"one": np.array(values, float)})
    assert (np.diff(counted.edges) > 0).all()
    assert counted.counts["one"].sum() == len(values)


def test_outliers_do_not_stretch_the_histogram():
    values = np.append(np.linspace(0, 1, 1000), 1e9)
    assert statistics.histogram({"one": values}).edges[-1] < 2


def test_bars_of_whole_numbers_name_them():
    counted = statistics.histogram({"words": np.array([2, 3, 3, 5])}, whole=True)
    assert [counted.range_of(bar) for bar in range(len(counted.edges) - 1)] == ["0", "1", "2", "3", "4", "5"]


def test_curve_is_what_each_threshold_would_keep(tmp_path):
    table = read_table(SmallSet(tmp_path).pairs)
    selection = Selection(table)
    selection.apply(SelectionRules(doc=1.2))
    curve = statistics.selection_curve(table, selection.kept, 1.2)
    for threshold, candidates, masks in zip(curve.thresholds, *curve.shares.values(), strict=True):
        at = Selection(table)
        at.apply(SelectionRules(doc=float(threshold)))
        assert candidates == at.kept.mean()
        assert masks == len(set(table.row[at.kept])) / len(table.seg_id)


@pytest.mark.parametrize(("step", "rounded"), [(0.011, 0.02), (1.0, 1.0), (2.1, 5.0), (70, 100), (0, 1.0), (-3, 1.0)])
def test_steps_are_round(step, rounded):
    assert statistics.nice_step(step) == pytest.approx(rounded)
