"""All candidates of a pairs CSV as columns, for what is computed over hundreds of thousands of them."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np

from pseudo_ris.pairs.rows import SCORE_LISTS, TEXT_LISTS, Row, open_pairs


@dataclass(frozen=True, eq=False)
class TextColumn:
    """Texts that repeat, each held once. codes: int64 [N], places in `values`, which are in the order of first appearance."""

    codes: np.ndarray
    values: list[str]

    def strings(self) -> np.ndarray:
        """The texts themselves, object [N]."""
        return np.array(self.values, object)[self.codes]


@dataclass(frozen=True, eq=False)
class CandidateTable:
    """The R rows (masks) of a pairs CSV and their C candidates, both in the file's order.

    columns: those of the file, in its order.
    One entry a row: image_name and image_id [R]; seg_id, int64 [R]; one_mask, bool [R]; bounds, int64 [R + 1]: the candidates
    of row r are those from bounds[r] up to bounds[r + 1].
    One entry a candidate: row, int64 [C], its row counted from 0; scores, float64 [C], finite, by name: doc, uniqueness,
    correctness, masked_score, crop_score; rival, int64 [C], -1 for none; texts [C] by name: pseudo_caption, noun, crop_set,
    strategy. records.CaptionRecord says what they mean. A file of the paper's columns has doc and pseudo_caption only; then the
    others are missing here, and rival is None.
    """

    columns: tuple[str, ...]
    image_name: TextColumn
    image_id: TextColumn
    seg_id: np.ndarray
    one_mask: np.ndarray
    bounds: np.ndarray
    row: np.ndarray
    scores: dict[str, np.ndarray]
    rival: np.ndarray | None
    texts: dict[str, TextColumn]

    @property
    def doc(self) -> np.ndarray:
        """DoC of each candidate, float64 [C]."""
        return self.scores["doc"]

    @property
    def text(self) -> TextColumn:
        """Sentence of each candidate."""
        return self.texts["pseudo_caption"]

    def rows(self, kept: np.ndarray) -> Iterator[Row]:
        """Rows that have a candidate left, as pair_files.PairWriter takes them, with these candidates only.

        kept: what is left, bool [C].
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
    """The candidates of a pairs CSV; columns that stage 2 does not write are left out.

    Raises UserError as pair_rows.open_pairs does.
    """
    columns, rows = open_pairs(path)
    names, ids = _TextBuilder(), _TextBuilder()
    texts = {column: _TextBuilder() for column in TEXT_LISTS if column in columns}
    numbers = {column: array("d") for column in SCORE_LISTS if column in columns}
    seg_ids, one_masks, counts, rivals = array("q"), array("b"), array("q"), array("q")
    for row in rows:
        names.extend([row["img_name"]])
        ids.extend([row["img_id"]])
        seg_ids.append(row["seg_id"])
        one_masks.append(row["one_mask"])
        counts.append(row["num_sent"])
        for column, builder in texts.items():
            builder.extend(row[column])
        for column, scores in numbers.items():
            scores.fromlist(row[column])
        rivals.fromlist(row.get("rival", []))
    return CandidateTable(
        columns=columns,
        image_name=names.column(),
        image_id=ids.column(),
        seg_id=np.array(seg_ids, np.int64),
        one_mask=np.array(one_masks, bool),
        bounds=np.array([0, *accumulate(counts)], np.int64),
        row=np.repeat(np.arange(len(counts)), counts),
        scores={column: np.array(scores, np.float64) for column, scores in numbers.items()},
        rival=np.array(rivals, np.int64) if "rival" in columns else None,
        texts={column: builder.column() for column, builder in texts.items()},
    )


class _Codes(dict[str, int]):
    """Text -> its code; a new text gets the next one."""

    def __missing__(self, text: str) -> int:
        code = self[text] = len(self)
        return code


class _TextBuilder:
    """A TextColumn that grows."""

    def __init__(self) -> None:
        self._codes = _Codes()
        self._places = array("q")

    def extend(self, texts: Iterable[str]) -> None:
        """Adds texts at the end."""
        self._places.extend(map(self._codes.__getitem__, texts))

    def column(self) -> TextColumn:
        """What was added."""
        return TextColumn(np.array(self._places, np.int64), list(self._codes))
