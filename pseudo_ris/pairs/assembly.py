"""Assembles the result files of stage 2 (NAME.csv, NAME.json, NAME_text.txt, NAME_doc.txt) from the caption parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pseudo_ris.config import ScoringConfig
from pseudo_ris.errors import UserError
from pseudo_ris.pairs.candidate_table import CandidateTable, table_of
from pseudo_ris.pairs.files import writing_pairs
from pseudo_ris.pairs.fitted import FittedRule
from pseudo_ris.pairs.rows import PAPER_COLUMNS, Row, open_pairs
from pseudo_ris.pairs.selection import kept_candidates
from pseudo_ris.pairs.selection_rules import Selection, SelectionRules
from pseudo_ris.records import CaptionRecord, MaskCaptions
from pseudo_ris.storage.caption_parts import Part

FURTHER_COLUMNS: dict[str, Callable[[CaptionRecord], object]] = {
    "uniqueness": lambda c: c.uniqueness,
    "correctness": lambda c: c.correctness,
    "masked_score": lambda c: c.masked_score,
    "crop_score": lambda c: c.crop_score,
    "rival": lambda c: -1 if c.rival is None else c.rival,
    "agreement": lambda c: c.agreement,
    "word_agreement": lambda c: c.word_agreement,
    "recognition": lambda c: c.recognition,
    "listener": lambda c: c.listener,
    "listener_rival": lambda c: -1 if c.listener_rival is None else c.listener_rival,
    "confidence": lambda c: c.confidence,
    "noun": lambda c: c.noun,
    "crop_set": lambda c: c.crop_set,
    "strategy": lambda c: c.strategy,
}
COLUMNS = (*PAPER_COLUMNS, *FURTHER_COLUMNS)
"""Of the CSV, in order."""


@dataclass
class PairTotals:
    """Totals over all images. `kept` counts the candidates that pass the filter `selection` (see selection.kept_candidates)."""

    selection: ScoringConfig
    images: int = 0
    images_without_masks: int = 0
    masks: int = 0
    candidates: int = 0
    kept: int = 0
    masks_with_kept: int = 0

    def add(self, part: Part) -> None:
        """Adds the counts of one image."""
        self.images += 1
        self.images_without_masks += not part.masks
        for mask in part.masks:
            kept = len(kept_candidates(mask, self.selection.threshold, self.selection.fallback))
            self.masks += 1
            self.candidates += len(mask.candidates)
            self.kept += kept
            self.masks_with_kept += kept > 0


def write_pairs(parts: Iterable[Part], output: Path, name: str, selection: ScoringConfig) -> PairTotals:
    """Writes the parts, in the given order, to the four files (see files.writing_pairs). Returns the totals.

    Raises UserError.
    """
    totals = PairTotals(selection)
    with writing_pairs(output, name, COLUMNS) as writer:
        for part in parts:
            totals.add(part)
            for mask in part.masks:
                writer.write(row_of(part, mask))
    return totals


def read_pairs(path: Path) -> list[Row]:
    """Reads all rows of a pairs CSV (see rows.open_pairs). Raises UserError."""
    _, rows = open_pairs(path)
    return list(rows)


def selected_candidates(
    captions: Sequence[MaskCaptions], rules: SelectionRules, fitted: FittedRule | None = None
) -> list[list[CaptionRecord]]:
    """Returns the candidates of each mask of one image that the rules keep, in their order. Raises UserError for area rules.

    fitted: what the rule `probability` uses.
    """
    if rules.needs_areas:
        raise UserError("min_area, max_area: need the masks; select from a pairs CSV")
    table = table_of_parts([Part("", "", tuple(captions))])
    selection = Selection(fitted.scored(table) if fitted else table)
    selection.apply(rules)
    kept = iter(selection.kept.tolist())
    return [[candidate for candidate in mask.candidates if next(kept)] for mask in captions]


def table_of_parts(parts: Iterable[Part]) -> CandidateTable:
    """Returns the candidates of images as reading their CSV would."""
    return table_of(COLUMNS, (row_of(part, mask) for part in parts for mask in part.masks))


def row_of(part: Part, mask: MaskCaptions) -> Row:
    """A mask's row of the CSV, but for `index` and `num_sent`, which PairWriter adds."""
    row: Row = {
        "img_name": part.image_name,
        "img_id": part.image_id,
        "seg_id": mask.seg_id,
        "pseudo_caption": [candidate.text for candidate in mask.candidates],
        "doc": [candidate.doc for candidate in mask.candidates],
        "one_mask": int(mask.one_mask),
    }
    return row | {name: [of(candidate) for candidate in mask.candidates] for name, of in FURTHER_COLUMNS.items()}
