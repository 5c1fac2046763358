"""Fits a combination of a candidate's scores on labelled candidates (see `pairs.fitted`); needs scikit-learn."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pseudo_ris.errors import UserError
from pseudo_ris.pairs.candidate_table import CandidateTable
from pseudo_ris.pairs.fitted import FEATURES, FittedRule, Term, feature

FOLDS = 5
LABEL_COLUMNS = ("img_id", "seg_id", "sentence", "right")
UNLABELLED = -1
TRUTHS = {"0": False, "1": True}


def fit(table: CandidateTable, labels: np.ndarray) -> FittedRule:
    """Fits a rule on the labelled candidates of a table.

    The regression is fitted on all of them. Its calibration, and the figures in `fitted_on`, come from FOLDS regressions that
    are each judged on images they were not fitted on.
    labels: 1 right, 0 wrong, UNLABELLED, int [C].
    Raises UserError when the table lacks a score, scikit-learn is missing, or the labels are too few.
    """
    try:
        from sklearn.isotonic import IsotonicRegression
        from sklearn.linear_model import LogisticRegression
        from sklearn.metrics import brier_score_loss, roc_auc_score
        from sklearn.model_selection import GroupKFold, cross_val_predict
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ModuleNotFoundError:
        raise UserError("fitting needs scikit-learn; install the extra `fit`") from None

    chosen = labels != UNLABELLED
    right, images = labels[chosen] == 1, table.image_id.codes[table.row][chosen]
    if len(set(images.tolist())) < FOLDS or not 0 < right.sum() < len(right):
        raise UserError(f"labels: give right and wrong candidates of at least {FOLDS} images")
    values = np.stack([feature(table, score)[chosen] for score in FEATURES], axis=1)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    unseen = cross_val_predict(model, values, right, groups=images, cv=GroupKFold(FOLDS), method="predict_proba")[:, 1]
    isotonic = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(unseen, right)
    scaler, regression = (step for _, step in model.fit(values, right).steps)
    terms = zip(FEATURES, scaler.mean_.tolist(), scaler.scale_.tolist(), regression.coef_[0].tolist(), strict=True)
    return FittedRule(
        tuple(Term(*term) for term in terms),
        float(regression.intercept_[0]),
        tuple(zip(isotonic.X_thresholds_.tolist(), isotonic.y_thresholds_.tolist(), strict=True)),
        {
            "candidates": len(right),
            "right": int(right.sum()),
            "images": len(set(images.tolist())),
            "auc": round(float(roc_auc_score(right, unseen)), 4),
            "brier": round(float(brier_score_loss(right, unseen)), 4),
        },
    )


def read_labels(path: Path, table: CandidateTable) -> np.ndarray:
    """Reads a CSV of labels (LABEL_COLUMNS) for the candidates of a table: 1 right, 0 wrong, UNLABELLED; int64 [C].

    A label is that of all equal sentences of its mask; case and spaces are ignored. Raises UserError that names the file, row
    and field.
    """
    wanted: dict[tuple[str, int, str], bool] = {}
    for number, row in _rows(path):
        where = f"{path}, row {number}"
        if row["right"] not in TRUTHS:
            raise UserError(f"{where}, column right: {row['right']!r:.40} is neither 0 nor 1")
        if not row["seg_id"].isdecimal():
            raise UserError(f"{where}, column seg_id: {row['seg_id']!r:.40} is not an integer of 0 or more")
        key = row["img_id"], int(row["seg_id"]), _plain(row["sentence"])
        if wanted.setdefault(key, TRUTHS[row["right"]]) != TRUTHS[row["right"]]:
            raise UserError(f"{where}: this sentence of the mask has two different labels; remove one")
    keys = _keys(table)
    if unknown := wanted.keys() - set(keys):
        image_id, seg_id, sentence = min(unknown)
        raise UserError(
            f"{path}: the pairs have no sentence {sentence!r:.60} of image {image_id!r:.60}, mask {seg_id}; give the CSV that "
            "was labelled"
        )
    return np.array([int(wanted.get(key, UNLABELLED)) for key in keys], np.int64)


def _keys(table: CandidateTable) -> list[tuple[str, int, str]]:
    """Image, mask and sentence of each candidate."""
    images = [table.image_id.values[code] for code in table.image_id.codes[table.row].tolist()]
    plain = [_plain(text) for text in table.text.values]
    return list(zip(images, table.seg_id[table.row].tolist(), (plain[code] for code in table.text.codes), strict=True))


def _plain(sentence: str) -> str:
    return " ".join(sentence.lower().split())


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV of labels with their numbers; row 1 is the header. Raises UserError."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")
            missing = [column for column in LABEL_COLUMNS if column not in (reader.fieldnames or ())]
            if missing:
                raise UserError(f"{path}: no column {missing[0]}; give a CSV with the columns {', '.join(LABEL_COLUMNS)}")
            yield from enumerate(reader, start=2)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read ({error}); give a CSV of labels") from error
