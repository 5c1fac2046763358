"""A pairs CSV as columns (NumPy arrays), for computations over hundreds of thousands of candidates."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pseudo_ris.pairs.rows import RIVAL_LISTS, SCORE_LISTS, TEXT_LISTS, Row, open_pairs


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
    Per candidate: row, int64 [C], index of its row; scores, name -> float64 [C], finite (rows.SCORE_LISTS); rivals, name ->
    int64 [C], -1 for none (rows.RIVAL_LISTS); texts, name -> [C] (rows.TEXT_LISTS). records.CaptionRecord documents these
    fields. Files with the paper's columns alone have only doc and pseudo_caption.
    """

    columns: tuple[str, ...]
    image_name: TextColumn
    image_id: TextColumn
    seg_id: np.ndarray
    one_mask: np.ndarray
    row: np.ndarray
    scores: dict[str, np.ndarray]
    rivals: dict[str, np.ndarray]
    texts: dict[str, TextColumn]

    @property
    def doc(self) -> np.ndarray:
        """The DoC of each candidate, float64 [C]."""
        return self.scores["doc"]

    @property
    def rival(self) -> np.ndarray | None:
        """The seg_id of each candidate's rival by DoC, int64 [C], -1 for none; None in files without the column."""
        return self.rivals.get("rival")

    @property
    def text(self) -> TextColumn:
        """The sentence of each candidate, [C]."""
        return self.texts["pseudo_caption"]

    def rows(self, kept: np.ndarray) -> Iterator[Row]:
        """Yields the rows that keep a candidate, with only the kept candidates, as files.PairWriter takes them.

        kept: which candidates to keep, bool [C].
        """
        lists = {**self.scores, **self.rivals, **{column: texts.strings() for column, texts in self.texts.items()}}
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
    rivals = {column: array("q") for column in RIVAL_LISTS if column in columns}
    seg_ids, one_masks, counts = array("q"), array("b"), array("q")
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
        for column, numbers_of in rivals.items():
            numbers_of.fromlist(row[column])
    return CandidateTable(
        columns=tuple(columns),
        image_name=names.column(),
        image_id=ids.column(),
        seg_id=np.array(seg_ids, np.int64),
        one_mask=np.array(one_masks, bool),
        row=np.repeat(np.arange(len(counts)), counts),
        scores={column: np.array(scores, np.float64) for column, scores in numbers.items()},
        rivals={column: np.array(seg_ids_of, np.int64) for column, seg_ids_of in rivals.items()},
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
