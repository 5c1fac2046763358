"""Writes the result files of stage 2 row by row: NAME.csv, NAME.json, NAME_text.txt and NAME_doc.txt."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

from pseudo_ris.io.files import temporary_name, writing

ENDINGS = (".csv", ".json", "_text.txt", "_doc.txt")
ENCODE = json.JSONEncoder(ensure_ascii=False).encode
QUOTE = '"'
QUOTED = (QUOTE, ",", "\n", "\r")
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
SUMMED = {"doc": "DoC", "uniqueness": "uniqueness", "correctness": "correctness"}


def pair_files(output: Path, name: str) -> list[Path]:
    """Returns the paths of the four files called `name` in the folder `output`, the CSV first."""
    return [output / f"{name}{ending}" for ending in ENDINGS]


@contextmanager
def writing_pairs(output: Path, name: str, columns: Sequence[str]) -> Iterator[PairWriter]:
    """Context manager that yields a writer of the four files. They are renamed into place at the end, or removed on failure.

    columns: the columns of the CSV, in order; must include PAPER_COLUMNS. Raises UserError when the files cannot be written.
    """
    targets = pair_files(output, name)
    temporaries = [temporary_name(target) for target in targets]
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
        try:
            with ExitStack() as stack:
                opened = [stack.enter_context(path.open("w", encoding="utf-8", newline="")) for path in temporaries]
                writer = PairWriter(*opened, columns)
                yield writer
                writer.write_totals()
            for temporary, target in zip(temporaries, targets, strict=True):
                temporary.replace(target)
            _warn_of_formulas(targets[0], writer.formulas)
        finally:
            for temporary in temporaries:
                temporary.unlink(missing_ok=True)


class PairWriter:
    """Writes rows to open files and collects the totals for NAME_doc.txt."""

    def __init__(self, table: TextIO, lines: TextIO, text: TextIO, doc: TextIO, columns: Sequence[str]) -> None:
        self._table, self._lines, self._text, self._doc = table, lines, text, doc
        self._columns = columns
        self._rows = self._candidates = self._doc_over_1 = self._one_mask = 0
        self._sums = {column: 0.0 for column in SUMMED if column in columns}
        self.formulas = 0  # rows whose image name or id a spreadsheet would evaluate as a formula
        self._table.write(_csv_line(columns))

    def write(self, row: Mapping[str, object]) -> None:
        """Writes a row. `index` and `num_sent` are filled in; every other column needs a value.

        Lists are written as JSON, which Python's `ast.literal_eval` can read too.
        """
        values = {"index": self._rows, "num_sent": len(row["doc"]), **row}
        spelled = {column: _spell(values[column]) for column in self._columns}
        self._table.write(_csv_line(values[c] if isinstance(values[c], str) else spelled[c] for c in self._columns))
        self._lines.write("{" + ", ".join(f'"{column}": {value}' for column, value in spelled.items()) + "}\n")
        self._text.write(f"{row['img_name']} mask {row['seg_id']}\n")
        self._text.writelines(f"  {doc:.4f}  {text}\n" for doc, text in zip(row["doc"], row["pseudo_caption"], strict=True))
        self._count(values)

    def _count(self, row: Mapping[str, object]) -> None:
        self._rows += 1
        self.formulas += any(str(row[column]).startswith(FORMULA_STARTS) for column in ("img_name", "img_id"))
        self._candidates += row["num_sent"]
        self._doc_over_1 += sum(doc > 1 for doc in row["doc"])
        self._one_mask += row["one_mask"]
        for column in self._sums:
            self._sums[column] += sum(row[column])

    def write_totals(self) -> None:
        """Writes NAME_doc.txt."""
        count = max(1, self._candidates)
        means = [f"mean {SUMMED[column]}: {total / count:.4f}" for column, total in self._sums.items()]
        counts = [
            f"candidates: {self._candidates}",
            f"candidates with DoC > 1: {self._doc_over_1}",
            f"share with DoC > 1: {self._doc_over_1 / count:.4f}",
            f"one-mask cases: {self._one_mask}",
        ]
        self._doc.writelines(f"{line}\n" for line in means + counts)


def _warn_of_formulas(table: Path, rows: int) -> None:
    """Warns when spreadsheets would evaluate image names. The names stay unchanged because readers find images by them."""
    if rows:
        print(
            f"warning: {table}: in {rows} rows the image's name or id begins with = + - or @, which a spreadsheet evaluates "
            "as a formula; import these columns as text",
            file=sys.stderr,
        )


def _spell(value: object) -> str:
    """Returns the JSON of a value; `str` is much faster than the encoder for integers."""
    return str(value) if isinstance(value, int) else ENCODE(value)


def _csv_line(cells: Iterable[str]) -> str:
    return ",".join(map(_csv_cell, cells)) + "\n"


def _csv_cell(text: str) -> str:
    """Quotes a cell. csv.writer scans long cells character by character, which takes a second per 100 MB."""
    return f'"{text.replace(QUOTE, 2 * QUOTE)}"' if any(mark in text for mark in QUOTED) else text
