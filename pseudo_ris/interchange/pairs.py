"""The Pseudo-RIS files: NAME.csv, NAME.json, NAME_text.txt and NAME_doc.txt, assembled from the parts in image order."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from pseudo_ris.config import ScoringConfig
from pseudo_ris.distinctiveness.select import kept_candidates
from pseudo_ris.errors import UserError
from pseudo_ris.files import temporary_name, writing
from pseudo_ris.interchange.parts import Part
from pseudo_ris.records import CaptionRecord, MaskCaptions

PAPER_COLUMNS = ("index", "img_name", "img_id", "seg_id", "num_sent", "pseudo_caption", "doc", "one_mask")
FURTHER_COLUMNS: dict[str, Callable[[CaptionRecord], object]] = {
    "uniqueness": lambda c: c.uniqueness,
    "correctness": lambda c: c.correctness,
    "masked_score": lambda c: c.masked_score,
    "crop_score": lambda c: c.crop_score,
    "rival": lambda c: -1 if c.rival is None else c.rival,
    "noun": lambda c: c.noun,
    "crop_set": lambda c: c.crop_set,
    "strategy": lambda c: c.strategy,
}


@dataclass
class PairTotals:
    """Sums over all candidates. `kept` pass the filter `selection` (see select.kept_candidates)."""

    selection: ScoringConfig
    images: int = 0
    images_without_masks: int = 0
    masks: int = 0
    one_mask: int = 0
    candidates: int = 0
    doc_over_1: int = 0
    kept: int = 0
    masks_with_kept: int = 0
    doc: float = 0.0
    uniqueness: float = 0.0
    correctness: float = 0.0

    def add(self, part: Part) -> None:
        """Counts one image."""
        self.images += 1
        self.images_without_masks += not part.masks
        for mask in part.masks:
            kept = len(kept_candidates(mask, self.selection.threshold, self.selection.fallback))
            self.masks += 1
            self.one_mask += mask.one_mask
            self.candidates += len(mask.candidates)
            self.doc_over_1 += sum(candidate.doc > 1 for candidate in mask.candidates)
            self.kept += kept
            self.masks_with_kept += kept > 0
            self.doc += sum(c.doc for c in mask.candidates)
            self.uniqueness += sum(c.uniqueness for c in mask.candidates)
            self.correctness += sum(c.correctness for c in mask.candidates)

    def lines(self) -> list[str]:
        """Content of NAME_doc.txt."""
        count = max(1, self.candidates)
        return [
            f"mean DoC: {self.doc / count:.4f}",
            f"mean uniqueness: {self.uniqueness / count:.4f}",
            f"mean correctness: {self.correctness / count:.4f}",
            f"candidates: {self.candidates}",
            f"candidates with DoC > 1: {self.doc_over_1}",
            f"share with DoC > 1: {self.doc_over_1 / count:.4f}",
            f"one-mask cases: {self.one_mask}",
        ]


def write_pairs(parts: Iterable[Part], output: Path, name: str, selection: ScoringConfig) -> PairTotals:
    """Streams the parts into the four files; all four appear at the end, each by rename.

    Lists in a cell are JSON, which is also a Python literal. Raises UserError when the files cannot be written.
    """
    totals = PairTotals(selection)
    targets = [output / f"{name}{end}" for end in (".csv", ".json", "_text.txt", "_doc.txt")]
    with writing(output), ExitStack() as stack:
        table, lines, text, doc = (
            stack.enter_context(temporary_name(target).open("w", encoding="utf-8", newline="")) for target in targets
        )
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow((*PAPER_COLUMNS, *FURTHER_COLUMNS))
        index = 0
        for part in parts:
            totals.add(part)
            for mask in part.masks:
                row = _row(index, part, mask)
                writer.writerow(_cell(value) for value in row.values())
                lines.write(json.dumps(row, ensure_ascii=False) + "\n")
                _write_text(text, part, mask)
                index += 1
        doc.writelines(f"{line}\n" for line in totals.lines())
    with writing(output):
        for target in targets:
            temporary_name(target).replace(target)
    return totals


def read_pairs(path: Path) -> list[dict[str, object]]:
    """Rows of a pairs CSV, list cells as lists; nothing in it is evaluated.

    Raises UserError that names the file, row and column of a cell that does not fit.
    """
    csv.field_size_limit(2**31 - 1)
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = [column for column in PAPER_COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise UserError(f"{path}: no column {missing[0]}; is it a pairs CSV of stage 2?")
        return [_parse_row(row, path, number) for number, row in enumerate(reader, start=2)]


def _parse_row(row: dict[str, str], path: Path, line: int) -> dict[str, object]:
    parsed: dict[str, object] = dict(row)
    for column in ("index", "seg_id", "num_sent", "one_mask"):
        try:
            parsed[column] = int(row[column])
        except (TypeError, ValueError) as error:
            raise UserError(f"{path}, row {line}, column {column}: {row[column]!r} is no whole number") from error
    for column in ("pseudo_caption", "doc", *FURTHER_COLUMNS):
        if column in row:
            try:
                parsed[column] = json.loads(row[column])
            except (TypeError, ValueError) as error:
                raise UserError(f"{path}, row {line}, column {column}: not a list literal ({error})") from error
    return parsed


def _row(index: int, part: Part, mask: MaskCaptions) -> dict[str, object]:
    row: dict[str, object] = {
        "index": index,
        "img_name": part.image_name,
        "img_id": part.image_id,
        "seg_id": mask.seg_id,
        "num_sent": len(mask.candidates),
        "pseudo_caption": [candidate.text for candidate in mask.candidates],
        "doc": [candidate.doc for candidate in mask.candidates],
        "one_mask": int(mask.one_mask),
    }
    row.update({name: [of(candidate) for candidate in mask.candidates] for name, of in FURTHER_COLUMNS.items()})
    return row


def _cell(value: object) -> object:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value


def _write_text(text: TextIO, part: Part, mask: MaskCaptions) -> None:
    text.write(f"{part.image_name} mask {mask.seg_id}\n")
    text.writelines(f"  {candidate.doc:.4f}  {candidate.text}\n" for candidate in mask.candidates)
