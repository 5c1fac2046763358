"""What a disturbed output lacks or has too much, beside one that was made undisturbed."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

LARGEST_CELL = 2**31 - 1

Rows = Counter[tuple[str, str]]
"""How often a pairs CSV has each (image, seg_id)."""


@dataclass(frozen=True)
class Output:
    """The results of both stages as they are on disk.

    entries: relative path -> content, of every file, hidden ones included; a folder's path ends in "/" and it has no content.
    """

    entries: dict[str, bytes]
    rows: Rows


@dataclass(frozen=True)
class Difference:
    """rows_lost: rows there should be. rows_doubled: rows there are too many of. files: paths whose content is not the same."""

    rows_lost: int
    rows_doubled: int
    files: tuple[str, ...]

    @property
    def is_none(self) -> bool:
        """Whether everything is as it should be."""
        return not (self.rows_lost or self.rows_doubled or self.files)


def read_output(table: Path, *folders: Path) -> Output:
    """What is in the folders, each named in the paths. table: the pairs CSV."""
    entries = {
        path.relative_to(folder.parent).as_posix() + "/" * path.is_dir(): b"" if path.is_dir() else path.read_bytes()
        for folder in folders
        for path in folder.rglob("*")
    }
    return Output(entries, read_rows(table))


def read_rows(path: Path) -> Rows:
    """Rows of a pairs CSV, of one that is cut short those before the cut; of a file that is missing or no such CSV none."""
    csv.field_size_limit(LARGEST_CELL)
    rows: Rows = Counter()
    try:
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            rows.update((row["img_id"], row["seg_id"]) for row in csv.DictReader(file))
    except (OSError, KeyError, csv.Error):
        pass
    return rows


def compare(found: Output, wanted: Output) -> Difference:
    """What tells `found` from `wanted`."""
    names = found.entries.keys() | wanted.entries.keys()
    different = [name for name in names if found.entries.get(name) != wanted.entries.get(name)]
    return Difference(
        rows_lost=(wanted.rows - found.rows).total(),
        rows_doubled=(found.rows - wanted.rows).total(),
        files=tuple(sorted(different)),
    )
