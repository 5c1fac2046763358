"""A pairs CSV as columns (NumPy arrays), for computations over hundreds of thousands of candidates."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pseudo_ris.pairs.rows import SCORE_LISTS, TEXT_LISTS, Row, open_pairs


@dataclass(frozen=True, eq=False)
class TextColumn:
    """A column of N texts, stored as categories.

    values: the distinct texts, in the order of first appearance. codes: int64 [N], indices into `values`.
    """

    codes: np.ndarray
    values: list[str]

    def strings(self) -> np.ndarray:
        """Returns the texts as an object array [N]."""
        return np.array(self.values, object)[self.codes]


@dataclass(frozen=True, eq=False)
class CandidateTable:
    """The R rows (masks) of a pairs CSV and their C candidates, both in file order.

    columns: the names of the file's columns, in file order.
    Per row: image_name and image_id [R]; seg_id, int64 [R]; one_mask, bool [R].
    Per candidate: row, int64 [C], index of its row; scores, name -> float64 [C], finite (doc, uniqueness, correctness,
    masked_score, crop_score); rival, int64 [C], -1 for none; texts, name -> [C] (pseudo_caption, noun, crop_set, strategy).
    records.CaptionRecord documents these fields. Files with the paper's columns alone have only doc and pseudo_caption; then
    `rival` is None and `scores` and `texts` lack the other names.
    """

    columns: tuple[str, ...]
    image_name: TextColumn
    image_id: TextColumn
    seg_id: np.ndarray
    one_mask: np.ndarray
    row: np.ndarray
    scores: dict[str, np.ndarray]
    rival: np.ndarray | None
    texts: dict[str, TextColumn]

    @property
    def doc(self) -> np.ndarray:
        """The DoC of each candidate, float64 [C]."""
        return self.scores["doc"]

    @property
    def text(self) -> TextColumn:
        """The sentence of each candidate, [C]."""
        return self.texts["pseudo_caption"]

    def rows(self, kept: np.ndarray) -> Iterator[Row]:
        """Yields the rows that keep a candidate, with only the kept candidates, as files.PairWriter takes them.

        kept: which candidates to keep, bool [C].
        """
        lists = {**self.scores, **{column: texts.strings() for column, texts in self.texts.items()}}
        if self.rival is not None:
            lists["rival"] = self.rival
        left = {column: values[kept] for column, values in lists.items()}
        bounds = np.cumsum([0, *np.bincount(self.row[kept], minlength=len(self.seg_id))])
        names, ids = self.image_name.strings(), self.image_id.strings()
        for row in np.flatnonzero(np.diff(bounds)):
            start, stop = bounds[row : row + 2]
            yield {
                "img_name": names[row],
                "img_id": ids[row],
                "seg_id": int(self.seg_id[row]),
                "one_mask": int(self.one_mask[row]),
                **{column: values[start:stop].tolist() for column, values in left.items()},
            }


def read_table(path: Path) -> CandidateTable:
    """Reads the candidates of a pairs CSV; ignores columns that stage 2 does not write.

    Raises UserError (see rows.open_pairs).
    """
    return table_of(*open_pairs(path))


def table_of(columns: Sequence[str], rows: Iterable[Row]) -> CandidateTable:
    """The candidates of rows that have these columns (see rows.open_pairs); `index` and `num_sent` may be missing."""
    names, ids = _TextBuilder(), _TextBuilder()
    texts = {column: _TextBuilder() for column in TEXT_LISTS if column in columns}
    numbers = {column: array("d") for column in SCORE_LISTS if column in columns}
    seg_ids, one_masks, counts, rivals = array("q"), array("b"), array("q"), array("q")
    for row in rows:
        names.extend([row["img_name"]])
        ids.extend([row["img_id"]])
        seg_ids.append(row["seg_id"])
        one_masks.append(row["one_mask"])
        counts.append(len(row["doc"]))
        for column, builder in texts.items():
            builder.extend(row[column])
        for column, scores in numbers.items():
            scores.fromlist(row[column])
        rivals.fromlist(row.get("rival", []))
    return CandidateTable(
        columns=tuple(columns),
        image_name=names.column(),
        image_id=ids.column(),
        seg_id=np.array(seg_ids, np.int64),
        one_mask=np.array(one_masks, bool),
        row=np.repeat(np.arange(len(counts)), counts),
        scores={column: np.array(scores, np.float64) for column, scores in numbers.items()},
        rival=np.array(rivals, np.int64) if "rival" in columns else None,
        texts={column: builder.column() for column, builder in texts.items()},
    )


class _Codes(dict[str, int]):
    """Maps a text to its code; a new text gets the next free code."""

    def __missing__(self, text: str) -> int:
        code = self[text] = len(self)
        return code


class _TextBuilder:
    """Builds a TextColumn."""

    def __init__(self) -> None:
        self._codes = _Codes()
        self._places = array("q")

    def extend(self, texts: Iterable[str]) -> None:
        """Appends texts."""
        self._places.extend(map(self._codes.__getitem__, texts))

    def column(self) -> TextColumn:
        """Returns the texts appended so far."""
        return TextColumn(np.array(self._places, np.int64), list(self._codes))
