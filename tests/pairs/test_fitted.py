"""Fitted rules of selection: fitting, the file, and what they keep."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest

from pseudo_ris.cli import fit as fit_command
from pseudo_ris.cli import select as select_command
from pseudo_ris.errors import UserError
from pseudo_ris.pairs.assembly import COLUMNS, read_pairs
from pseudo_ris.pairs.candidate_table import CandidateTable, read_table, table_of
from pseudo_ris.pairs.fitted import FEATURES, SMALLEST, FittedRule, Term, read_rule
from pseudo_ris.pairs.fitting import UNLABELLED, fit, read_labels

SHARES = ("agreement", "word_agreement", "recognition", "listener", "confidence", "uniqueness")
RULE = FittedRule(
    tuple(Term(score, 0.1 * place, 1.0 + place, 0.5 - 0.2 * place) for place, score in enumerate(FEATURES)),
    0.3,
    ((0.1, 0.0), (0.5, 0.4), (0.9, 1.0)),
    {"images": 7},
)


def rows_of(images: int, seed: int, candidates: int = 6) -> list[dict]:
    """Two masks an image, or one in every fifth; scores at random, some at their limits."""
    rng, rows = np.random.default_rng(seed), []
    for image in range(images):
        masks = 1 if image % 5 == 4 else 2
        for seg_id in range(masks):
            row = {"img_name": f"{image}.jpg", "img_id": str(image), "seg_id": seg_id, "one_mask": int(masks == 1)}
            row |= {name: rng.random(candidates).round(3).tolist() for name in SHARES}
            row["listener"][0], row["confidence"][1], row["recognition"][2] = 1.0, 0.0, 1.0
            row |= {"doc": (20 if masks == 1 else 2) * rng.random(candidates), "num_sent": candidates}
            row["doc"] = row["doc"].tolist()
            row |= {name: [1.0] * candidates for name in ("correctness", "masked_score", "crop_score")}
            row |= {"pseudo_caption": [f"a thing {place}" for place in range(candidates)], "noun": ["thing"] * candidates}
            row |= {"rival": [-1] * candidates, "listener_rival": [-1] * candidates}
            row |= {"crop_set": ["masked"] * candidates, "strategy": ["beam"] * candidates}
            rows.append(row)
    return rows


def make_table(images: int, seed: int) -> CandidateTable:
    return table_of(COLUMNS, rows_of(images, seed))


def labels_of(table: CandidateTable, seed: int) -> np.ndarray:
    """Right more often, the better listener and agreement are."""
    odds = 4 * table.scores["listener"] + 4 * table.scores["agreement"] - 4
    return (np.random.default_rng(seed).random(len(odds)) < 1 / (1 + np.exp(-odds))).astype(int)


def test_the_probability_is_the_formula_candidate_by_candidate():
    table = make_table(12, 0)
    for place, found in enumerate(RULE.probability(table)):
        total = RULE.intercept
        for term in RULE.terms:
            value = float(table.scores[term.score][place])
            if term.score in ("doc", "uniqueness") and table.one_mask[table.row[place]]:
                value = 1.0
            if term.score == "listener":
                value = min(max(value, SMALLEST), 1 - SMALLEST)
                value = math.log(value / (1 - value))
            elif term.score not in ("agreement", "word_agreement"):
                value = math.log(max(value, SMALLEST))
            total += (value - term.mean) / term.scale * term.weight
        p = 1 / (1 + math.exp(-total))
        (x0, y0), (x1, y1), (x2, y2) = RULE.calibration
        if p < x1:
            expected = y0 if p <= x0 else y0 + (p - x0) / (x1 - x0) * (y1 - y0)
        else:
            expected = y2 if p >= x2 else y1 + (p - x1) / (x2 - x1) * (y2 - y1)
        assert found == pytest.approx(expected, abs=1e-12)


def test_a_fitted_rule_equals_scikit_learns_own_prediction_and_is_calibrated():
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    from pseudo_ris.pairs.fitted import feature

    table, other = make_table(300, 1), make_table(300, 2)
    labels = labels_of(table, 3)
    rule = fit(table, labels)
    scaler = StandardScaler()
    model = LogisticRegression(max_iter=1000).fit(
        scaler.fit_transform(np.stack([feature(table, s) for s in FEATURES], 1)), labels
    )
    predicted = model.predict_proba(scaler.transform(np.stack([feature(other, s) for s in FEATURES], 1)))[:, 1]
    np.testing.assert_allclose(rule.probability(other), np.interp(predicted, *np.array(rule.calibration).T), atol=1e-9)
    weights = {term.score: term.weight for term in rule.terms}
    assert min(weights["listener"], weights["agreement"]) > 4 * max(abs(weights["word_agreement"]), abs(weights["doc"]))
    truth, probability = labels_of(other, 4), rule.probability(other)
    for low in (0.0, 0.25, 0.5, 0.75):
        inside = (probability >= low) & (probability <= low + 0.25)
        assert truth[inside].mean() == pytest.approx(probability[inside].mean(), abs=0.08)
    assert rule.fitted_on["auc"] == pytest.approx(0.8, abs=0.08)
    assert (rule.fitted_on["candidates"], rule.fitted_on["images"]) == (len(labels), 300)


def test_figures_come_from_images_that_were_left_out():
    """Labels that only the image decides cannot be foreseen, whatever a regression learns of its own images."""
    table = make_table(60, 5)
    of_image = np.random.default_rng(6).integers(0, 2, 60)
    assert fit(table, of_image[table.image_id.codes[table.row]]).fitted_on["auc"] < 0.6


def test_unlabelled_candidates_are_left_out():
    table = make_table(40, 7)
    labels = labels_of(table, 8)
    labels[::3] = UNLABELLED
    assert fit(table, labels).fitted_on["candidates"] == (labels != UNLABELLED).sum()


@pytest.mark.parametrize("labels", ["none", "right", "four images"])
def test_too_few_labels_are_refused(labels):
    table = make_table(20, 9)
    given = {"none": np.full(len(table.row), UNLABELLED), "right": np.ones(len(table.row), int)}
    given["four images"] = np.where(table.image_id.codes[table.row] < 4, labels_of(table, 1), UNLABELLED)
    with pytest.raises(UserError, match="labels: give right and wrong candidates of at least 5 images"):
        fit(table, given[labels])


def test_a_rule_reads_back_and_a_damaged_one_is_named(tmp_path):
    path = tmp_path / "rule.json"
    path.write_text(RULE.text())
    assert read_rule(path) == RULE
    content = json.loads(RULE.text())
    damages = [
        ({"format": "x"}, "is no fitted rule; give a file that `pseudo-ris fit` wrote"),
        ({"intercept": None}, "intercept is missing or no float"),
        ({"calibration": [[0.5, 0.1], [0.4, 0.2]]}, "calibration does not ascend"),
        ({"calibration": []}, "calibration or a number is damaged"),
        ({"calibration": [[0.5]]}, "calibration or a number is damaged"),
        ({"intercept": math.nan}, "calibration or a number is damaged"),
        ({"calibration": [[0.5, math.inf]]}, "calibration or a number is damaged"),
        ({"terms": [{"score": "charm", "mean": 0.0, "scale": 1.0, "weight": 1.0}]}, "score 'charm' is unknown"),
        ({"terms": [{"score": "doc", "mean": 0.0, "scale": 0.0, "weight": 1.0}]}, "a scale is not above 0"),
    ]
    for change, message in damages:
        path.write_text(json.dumps(content | change))
        with pytest.raises(UserError, match=message):
            read_rule(path)


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / "pairs.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        columns = ("index", *(name for name in COLUMNS if name != "index"))
        writer.writerow(columns)
        for index, row in enumerate(rows_of(30, 10)):
            values = row | {"index": index}
            writer.writerow(json.dumps(values[name]) if isinstance(values[name], list) else values[name] for name in columns)
    return path


def write_labels(path, rows, columns=("img_id", "seg_id", "sentence", "right")):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def test_the_commands_fit_a_rule_and_select_by_it(pairs, tmp_path, capsys):
    table = read_table(pairs)
    labels = labels_of(table, 11)
    images, texts = table.image_id.strings()[table.row], table.text.strings()
    rows = [(images[at], table.seg_id[table.row][at], f" {texts[at].upper()}", labels[at]) for at in range(0, len(labels), 2)]
    given = write_labels(tmp_path / "labels.csv", rows)
    assert (read_labels(given, table)[::2] == labels[::2]).all()
    assert (read_labels(given, table)[1::2] == UNLABELLED).all()
    rule, out = tmp_path / "rule.json", tmp_path / "out.csv"
    assert fit_command.main(["--pairs", str(pairs), "--labels", str(given), "--output", str(rule)]) == 0
    assert f"fitted on {len(rows)} candidates of 30 images" in capsys.readouterr().out
    options = ["--pairs", str(pairs), "--output", str(out), "--fitted", str(rule)]
    assert select_command.main([*options, "--probability", "0.6", "--top-k", "off"]) == 0
    assert "probability >= 0.6" in capsys.readouterr().out
    kept = sum(row["num_sent"] for row in read_pairs(out))
    assert kept == (read_rule(rule).probability(table) >= 0.6).sum() > 0


def test_the_rule_on_probabilities_needs_a_fitted_rule(pairs, tmp_path):
    with pytest.raises(UserError, match=r"--probability needs a fitted rule; give the file .* with --fitted"):
        select_command.main(["--pairs", str(pairs), "--output", str(tmp_path / "o.csv"), "--probability", "0.5"])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("0", 0, "a thing 0", "yes")], "row 2, column right: 'yes' is neither 0 nor 1"),
        ([("0", "x", "a thing 0", 1)], "row 2, column seg_id: 'x' is not an integer"),
        ([("0", 0, "a thing 0", 1), ("0", 0, "A thing  0", 0)], "row 3: this sentence of the mask has two different labels"),
        ([("0", 0, "a plum", 1)], "no sentence 'a plum' of image '0', mask 0"),
        ([("99", 0, "a thing 0", 1)], "no sentence 'a thing 0' of image '99', mask 0"),
    ],
)
def test_bad_labels_are_named(pairs, tmp_path, rows, message):
    with pytest.raises(UserError, match=message):
        read_labels(write_labels(tmp_path / "labels.csv", rows), read_table(pairs))


def test_labels_without_a_column_or_a_file_are_refused(pairs, tmp_path):
    path = write_labels(tmp_path / "labels.csv", [], ("img_id", "seg_id", "sentence"))
    with pytest.raises(UserError, match=r"labels.csv: no column right; give a CSV with the columns img_id"):
        read_labels(path, read_table(pairs))
    with pytest.raises(UserError, match=r"none.csv: cannot be read"):
        read_labels(tmp_path / "none.csv", read_table(pairs))
