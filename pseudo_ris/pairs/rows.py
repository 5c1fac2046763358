"""Reads the rows of a pairs CSV, cell by cell, without evaluating code."""

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
SCORE_LISTS = (
    *("doc", "uniqueness", "correctness", "masked_score", "crop_score"),
    *("agreement", "word_agreement", "recognition", "listener", "confidence"),
)
RIVAL_LISTS = ("rival", "listener_rival")
LARGEST_CELL = 2**31 - 1
LARGEST_WHOLE = 2**63 - 1

Row = dict[str, object]


def open_pairs(path: Path) -> tuple[tuple[str, ...], Iterator[Row]]:
    """Opens a pairs CSV. Returns its columns and an iterator over its rows.

    Integer cells become int and list cells become lists; cells of columns that stage 2 does not write stay text. All lists of a
    row have `num_sent` entries of type str, finite float, or int for rivals.
    Raises UserError that names the file, row and column of an invalid cell. Row 1 is the header.
    """
    records = _read_records(path)
    columns = tuple(next(records, ()))
    _check_columns(columns, path)
    return columns, _parse_rows(columns, records, path)


def _read_records(path: Path) -> Iterator[list[str]]:
    """Yields the cells of each line of a CSV. Raises UserError."""
    csv.field_size_limit(LARGEST_CELL)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets write a byte order mark
            reader = csv.reader(file, strict=True)
            try:
                yield from reader
            except csv.Error as error:
                raise UserError(f"{path}, line {reader.line_num}: not CSV ({error}); fix the line") from error
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
        raise UserError(f"{path}: no column {missing[0]}; give the pairs CSV that stage 2 wrote")
    twice = [column for column in columns if columns.count(column) > 1]
    if twice:
        raise UserError(f"{path}: duplicate column {twice[0]}; remove one")


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
                f"{place}, column {column}: {len(row[column])} entries, num_sent is {row['num_sent']}; fix or remove the row"
            )
    return row


def _parse_whole(cell: str) -> int:
    if not re.fullmatch("[0-9]{1,18}", cell):
        raise ValueError(f"{cell[:40]!r} is not an integer of 0 or more")
    return int(cell)


def _parse_switch(cell: str) -> int:
    if cell not in ("0", "1"):
        raise ValueError(f"{cell[:40]!r} is neither 0 nor 1")
    return int(cell)


def _parse_texts(cell: str) -> list[str]:
    values = _parse_list(cell, {str}, "str")
    # Escapes may spell a lone surrogate, which UTF-8 cannot encode.
    if "\\" in cell and not _can_be_written("".join(values)):
        raise ValueError("contains a lone surrogate (half a character)")
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
        raise ValueError("contains NaN or infinity")
    return scores


def _parse_rivals(cell: str) -> list[int]:
    values = _parse_list(cell, {int}, "int")
    if values and not -1 <= min(values) <= max(values) <= LARGEST_WHOLE:
        raise ValueError("contains a number that is neither a seg_id nor -1")
    return values


def _parse_list(cell: str, kinds: set[type], kind: str) -> list:
    """Parses a list whose entries have one of the types `kinds`. Raises ValueError."""
    values = _literal(cell)
    if not isinstance(values, list):
        raise ValueError(f"is {type(values).__name__}, not a list")
    if not kinds.issuperset(map(type, values)):
        strange = next(type(value).__name__ for value in values if type(value) not in kinds)
        raise ValueError(f"an entry is {strange}, not {kind}")
    return values


def _literal(cell: str) -> object:
    """Parses JSON, or a Python literal as the official release writes. Raises ValueError."""
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        pass
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in strings
            return ast.literal_eval(cell)
    except SyntaxError as error:
        raise ValueError(f"not a list literal ({error.msg})") from error
    except (ValueError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError("not a list literal (neither JSON nor Python)") from error


LIST_PARSERS: dict[str, Callable[[str], list]] = {
    **dict.fromkeys(TEXT_LISTS, _parse_texts),
    **dict.fromkeys(SCORE_LISTS, _parse_scores),
    **dict.fromkeys(RIVAL_LISTS, _parse_rivals),
}
LIST_COLUMNS = LIST_PARSERS.keys()
PARSERS: dict[str, Callable[[str], object]] = {
    **dict.fromkeys(WHOLE_COLUMNS, _parse_whole),
    "one_mask": _parse_switch,
    **LIST_PARSERS,
}
