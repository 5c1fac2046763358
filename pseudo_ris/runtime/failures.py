"""failures.csv: the list of images that could not be used."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from pseudo_ris.errors import UserError
from pseudo_ris.io.files import write_atomic, writing
from pseudo_ris.io.image_ids import printable
from pseudo_ris.runtime.image_loop import Failure

FAILURES_FILE = "failures.csv"
FAILURES_OF_SHARDS = "failures.*-of-*.csv"
COLUMNS = ("image_id", "image", "reason", "key")


def read_failures(path: Path) -> list[Failure]:
    """Rows of a failures.csv, [] if there is none; of a truncated file, the complete rows.

    Raises UserError if the file is something else.
    """
    if not path.exists():
        return []
    text = path.read_bytes().decode(errors="replace")
    rows = _rows(text)
    if rows is None:
        raise UserError(f"{path}: not a failures file (columns {', '.join(COLUMNS)}); remove it and run again")
    return [Failure(*row) for row in rows]


def all_failures(folder: Path) -> dict[str, Failure]:
    """The failures in a stage's folder by image name; entries of shares are newer than failures.csv. Raises UserError."""
    paths = (folder / FAILURES_FILE, *sorted(folder.glob(FAILURES_OF_SHARDS)))
    return {failure.image: failure for path in paths for failure in read_failures(path)}


def write_failures(path: Path, failures: Iterable[Failure]) -> None:
    """Writes a failures.csv, or removes it if there are no failures; escapes names that are not UTF-8. Raises UserError."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    rows = [(failure.image_id, failure.image, failure.reason, failure.key) for failure in failures]
    writer.writerows([COLUMNS, *rows])
    if rows:
        write_atomic(path, printable(text.getvalue()))
    else:
        with writing(path):
            path.unlink(missing_ok=True)


def _rows(text: str) -> list[list[str]] | None:
    """The complete rows below the header; None if the text is not the beginning of a failures file."""
    header = f"{','.join(COLUMNS)}\n"
    if not text.startswith(header):
        return [] if header.startswith(text) else None
    try:
        rows = list(csv.reader(io.StringIO(text.removeprefix(header), newline="")))
    except csv.Error:
        return None
    if rows and (not text.endswith("\n") or len(rows[-1]) != len(COLUMNS)):
        rows.pop()
    return rows if all(len(row) == len(COLUMNS) for row in rows) else None
