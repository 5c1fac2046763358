"""The rows of a pairs CSV: their columns, and reading them cell by cell without evaluating anything."""

from __future__ import annotations

import ast
import csv
import json
import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pseudo_ris.errors import UserError

PAPER_COLUMNS = ("index", "img_name", "img_id", "seg_id", "num_sent", "pseudo_caption", "doc", "one_mask")
WHOLE_COLUMNS = ("index", "seg_id", "num_sent", "one_mask")
TEXT_LISTS = ("pseudo_caption", "noun", "crop_set", "strategy")
SCORE_LISTS = ("doc", "uniqueness", "correctness", "masked_score", "crop_score")
LARGEST_CELL = 2**31 - 1
LARGEST_WHOLE = 2**63 - 1

Row = dict[str, object]


def open_pairs(path: Path) -> tuple[tuple[str, ...], Iterator[Row]]:
    """Columns of a pairs CSV, and its rows one after the other as they are asked for.

    In a row whole numbers are int, list cells lists, cells of columns that stage 2 does not write text as it is. All lists of a
    row have `num_sent` entries: str, finite float, or for `rival` int.
    Raises UserError that names the file, row and column of a cell that does not fit. Row 1 is the header.
    """
    records = _read_records(path)
    columns = tuple(next(records, ()))
    _check_columns(columns, path)
    return columns, _parse_rows(columns, records, path)


def _read_records(path: Path) -> Iterator[list[str]]:
    """Cells of each line of a CSV. Raises UserError."""
    csv.field_size_limit(LARGEST_CELL)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets save UTF-8 with a byte order mark
            reader = csv.reader(file, strict=True)
            try:
                yield from reader
            except csv.Error as error:
                raise UserError(f"{path}, line {reader.line_num}: no CSV ({error}); fix the line") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give the pairs CSV that stage 2 wrote") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not text in UTF-8 ({error}); give the pairs CSV that stage 2 wrote") from error


def _parse_rows(columns: Sequence[str], records: Iterator[list[str]], path: Path) -> Iterator[Row]:
    for number, cells in enumerate(records, start=2):
        if not cells:  # an empty line
            continue
        if len(cells) != len(columns):
            raise UserError(f"{path}, row {number}: {len(cells)} cells, the header has {len(columns)}; fix or remove the row")
        yield _parse_row(dict(zip(columns, cells, strict=True)), f"{path}, row {number}")


def _check_columns(columns: Sequence[str], path: Path) -> None:
    missing = [column for column in PAPER_COLUMNS if column not in columns]
    if missing:
        raise UserError(f"{path}: no column {missing[0]}; is it a pairs CSV of stage 2?")
    twice = [column for column in columns if columns.count(column) > 1]
    if twice:
        raise UserError(f"{path}: column {twice[0]} is there twice; remove one")


def _parse_row(cells: dict[str, str], place: str) -> Row:
    row: Row = {}
    for column, cell in cells.items():
        try:
            row[column] = PARSERS[column](cell) if column in PARSERS else cell
        except ValueError as error:
            raise UserError(f"{place}, column {column}: {error}; fix or remove the row") from error
    for column in cells.keys() & LIST_COLUMNS:
        if len(row[column]) != row["num_sent"]:
            raise UserError(
                f"{place}, column {column}: {len(row[column])} entries, num_sent says {row['num_sent']}; fix or remove the row"
            )
    return row


def _parse_whole(cell: str) -> int:
    if not re.fullmatch("[0-9]{1,18}", cell):
        raise ValueError(f"{cell[:40]!r} is no whole number")
    return int(cell)


def _parse_switch(cell: str) -> int:
    if cell not in ("0", "1"):
        raise ValueError(f"{cell[:40]!r} is neither 0 nor 1")
    return int(cell)


def _parse_texts(cell: str) -> list[str]:
    values = _parse_list(cell, {str}, "text")
    # Escapes may spell half a character, which no file can hold.
    if "\\" in cell and not _can_be_written("".join(values)):
        raise ValueError("holds half a character (a lone surrogate)")
    return values


def _can_be_written(text: str) -> bool:
    try:
        return text.encode() is not None
    except UnicodeEncodeError:
        return False


def _parse_scores(cell: str) -> list[float]:
    values = _parse_list(cell, {float, int}, "a number")
    try:
        scores = list(map(float, values))
    except OverflowError:
        scores = [math.inf]
    if not all(map(math.isfinite, scores)):
        raise ValueError("holds NaN or an infinite number")
    return scores


def _parse_rivals(cell: str) -> list[int]:
    values = _parse_list(cell, {int}, "a whole number")
    if values and not -1 <= min(values) <= max(values) <= LARGEST_WHOLE:
        raise ValueError("holds a number that is no seg_id and not -1")
    return values


def _parse_list(cell: str, kinds: set[type], kind: str) -> list:
    """The list that a cell spells, all entries of one of `kinds`. Raises ValueError."""
    values = _literal(cell)
    if not isinstance(values, list):
        raise ValueError(f"a {type(values).__name__}, not a list")
    if not kinds.issuperset(map(type, values)):
        strange = next(type(value).__name__ for value in values if type(value) not in kinds)
        raise ValueError(f"an entry is {strange}, not {kind}")
    return values


def _literal(cell: str) -> object:
    """What a cell spells in JSON, or as a Python literal, which is what the release writes. Raises ValueError."""
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        pass
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes in strings
            return ast.literal_eval(cell)
    except SyntaxError as error:
        raise ValueError(f"not a list literal ({error.msg})") from error
    except (ValueError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError("not a list literal (neither JSON nor Python's)") from error


LIST_PARSERS: dict[str, Callable[[str], list]] = {
    **dict.fromkeys(TEXT_LISTS, _parse_texts),
    **dict.fromkeys(SCORE_LISTS, _parse_scores),
    "rival": _parse_rivals,
}
LIST_COLUMNS = LIST_PARSERS.keys()
PARSERS: dict[str, Callable[[str], object]] = {
    **dict.fromkeys(WHOLE_COLUMNS, _parse_whole),
    "one_mask": _parse_switch,
    **LIST_PARSERS,
}
