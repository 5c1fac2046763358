"""Builds the JSON data of the gallery: images, masks and candidates as columns."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from pseudo_ris.pairs.candidate_table import CandidateTable
from pseudo_ris.report.gallery import ImageView, MaskView, Outline

SCALE = 1000
"""Scores are stored as integers, in thousandths."""
NO_OUTLINE = Outline("", 0, 0)
SHOWN_SCORES = {"doc": "doc", "m": "masked_score", "b": "crop_score", "uniqueness": "uniqueness"}
"""Name on the page -> column."""


def rows_by_image(table: CandidateTable) -> dict[str, list[int]]:
    """Returns image name -> indices of its rows, both in table order."""
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(table.image_name.strings()):
        rows.setdefault(name, []).append(row)
    return rows


def gallery_data(
    table: CandidateTable, kept: np.ndarray, views: Sequence[ImageView], rows: Mapping[str, Sequence[int]], threshold: float
) -> dict[str, object]:
    """Returns the JSON object of the images `views`.

    kept: bool [C]. The masks of an image are those of its rows, then those without a row. `first` lists where the masks of each
    image, or the groups of each mask, begin, plus a final end. A group combines the candidates of a mask with equal text,
    scores and `kept`; groups are sorted by `kept`, then DoC, descending. `origins` lists pairs of crop set and strategy.
    """
    entries = [_entries(table, view, rows.get(view.name, ())) for view in views]
    masks = [entry for of_image in entries for entry in of_image]
    mask_rows = np.array([row for row, _ in masks], np.int64)
    order, starts = _grouped(table, kept, mask_rows)
    leaders = order[starts]
    texts, text_codes = _renumbered(table.text.codes[leaders], table.text.values)
    nouns, noun_codes = _nouns(table, leaders)
    origins, origin_codes = _origins(table, order)
    return {
        "scale": SCALE,
        "threshold": threshold,
        "texts": texts,
        "nouns": nouns,
        "origins": origins,
        "images": {
            "name": [view.name for view in views],
            "width": [view.thumbnail.width if view.thumbnail else 0 for view in views],
            "height": [view.thumbnail.height if view.thumbnail else 0 for view in views],
            "jpeg": [base64.b64encode(view.thumbnail.jpeg).decode() if view.thumbnail else "" for view in views],
            "problem": ["; ".join(view.problems) for view in views],
            "first": [0, *itertools.accumulate(map(len, entries))],
        },
        "masks": {**_mask_columns(table, masks), "first": _first_groups(table, mask_rows, leaders)},
        "groups": {
            "text": text_codes,
            **{name: _scaled(table.scores.get(column), leaders) for name, column in _score_columns(table).items()},
            "rival": table.rival[leaders].tolist() if table.rival is not None else None,
            "noun": noun_codes,
            "kept": kept[leaders].astype(int).tolist(),
            "first": [*starts.tolist(), len(order)],
            "origin": origin_codes,
        },
    }


def _entries(table: CandidateTable, view: ImageView, rows: Sequence[int]) -> list[tuple[int, MaskView]]:
    """Returns the masks of an image with their rows (-1 without a row); rows without a mask get an empty view."""
    by_id = {mask.seg_id: mask for mask in view.masks}
    seg_ids = [int(table.seg_id[row]) for row in rows]
    with_row = [(row, by_id.get(seg_id, MaskView(seg_id, 0.0, (), None))) for row, seg_id in zip(rows, seg_ids, strict=True)]
    return with_row + [(-1, mask) for mask in view.masks if mask.seg_id not in set(seg_ids)]


def _grouped(table: CandidateTable, kept: np.ndarray, mask_rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the candidates of the rows `mask_rows` in page order, int [c], and the start of each group."""
    place = np.full(len(table.seg_id) + 1, -1)  # one more: rows of -1 write there
    place[mask_rows] = np.arange(len(mask_rows))
    chosen = np.flatnonzero(place[table.row] >= 0) if len(table.row) else np.zeros(0, np.int64)
    columns = [column for column in _score_columns(table).values() if column in table.scores]
    scores = [-_thousandths(table.scores[column][chosen]) for column in columns]
    codes = [table.text.codes, *(table.texts[name].codes for name in ("noun",) if name in table.texts)]
    codes += [table.rival] if table.rival is not None else []
    keys = np.stack([place[table.row[chosen]], ~kept[chosen], *scores, *(column[chosen] for column in codes)])
    order = np.lexsort(keys[::-1])
    keys = keys[:, order]
    changes = (keys[:, 1:] != keys[:, :-1]).any(axis=0)
    starts = np.concatenate([[0], np.flatnonzero(changes) + 1]) if len(order) else np.zeros(0, np.int64)
    return chosen[order], starts


def _mask_columns(table: CandidateTable, masks: Sequence[tuple[int, MaskView]]) -> dict[str, list]:
    outlines = [view.outline or NO_OUTLINE for _, view in masks]
    return {
        "seg": [view.seg_id for _, view in masks],
        "share": [round(view.share * 100 * SCALE) for _, view in masks],
        "twins": [list(view.twins) for _, view in masks],
        "path": [outline.path for outline in outlines],
        "x": [outline.x for outline in outlines],
        "y": [outline.y for outline in outlines],
        "only": [int(row >= 0 and table.one_mask[row]) for row, _ in masks],
    }


def _first_groups(table: CandidateTable, mask_rows: np.ndarray, leaders: np.ndarray) -> list[int]:
    """Returns where the groups of each mask begin, plus the end."""
    counts = np.bincount(table.row[leaders], minlength=len(table.seg_id) + 1)  # the last one, 0, is for rows of -1
    return [0, *np.cumsum(counts[mask_rows]).tolist()]


def _score_columns(table: CandidateTable) -> dict[str, str]:
    """Returns name on the page -> column; m comes from masked_score, or from the equal correctness if that is missing."""
    columns = dict(SHOWN_SCORES)
    if columns["m"] not in table.scores:
        columns["m"] = "correctness"
    return columns


def _thousandths(values: np.ndarray) -> np.ndarray:
    return np.rint(values.clip(-1e12, 1e12) * SCALE).astype(np.int64)


def _scaled(values: np.ndarray | None, places: np.ndarray) -> list[int] | None:
    return None if values is None else _thousandths(values[places]).tolist()


def _nouns(table: CandidateTable, leaders: np.ndarray) -> tuple[list[str], list[int] | None]:
    """Returns the nouns in use and each group's index into them; None without the column."""
    if "noun" not in table.texts:
        return [], None
    return _renumbered(table.texts["noun"].codes[leaders], table.texts["noun"].values)


def _renumbered(codes: np.ndarray, values: Sequence[str]) -> tuple[list[str], list[int]]:
    """Returns the values in use and the codes as indices into them."""
    used, numbers = np.unique(codes, return_inverse=True)
    return [values[code] for code in used], numbers.tolist()


def _origins(table: CandidateTable, order: np.ndarray) -> tuple[list[list[str]], list[int]]:
    """Returns the pairs of crop set and strategy in use and each candidate's index into them; empty without the columns."""
    if not {"crop_set", "strategy"} <= table.texts.keys():
        return [], []
    crop_set, strategy = table.texts["crop_set"], table.texts["strategy"]
    pairs = crop_set.codes[order] * max(1, len(strategy.values)) + strategy.codes[order]
    used, numbers = np.unique(pairs, return_inverse=True)
    split = (divmod(int(pair), len(strategy.values)) for pair in used)
    return [[crop_set.values[crop], strategy.values[way]] for crop, way in split], numbers.tolist()
