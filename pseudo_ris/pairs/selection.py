"""Which scored candidates are good enough to train on.

pseudo-ris select --pairs FILE.csv --output SELECTED.csv [--preset paper] [--RULE VALUE ...]

The output has the columns of the input and of its rows those that have a candidate left, with these candidates only. img_id
and seg_id stay what they are, and so does a rival whose mask has none left; `index` counts the rows that are left. Beside
SELECTED.csv stand SELECTED.json, SELECTED_text.txt and SELECTED_doc.txt, as stage 2 writes them. No model is needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pseudo_ris.errors import UserError
from pseudo_ris.io.files import require_file_place
from pseudo_ris.pairs.candidate_table import CandidateTable, read_table
from pseudo_ris.pairs.files import pair_files, writing_pairs
from pseudo_ris.pairs.mask_areas import area_shares
from pseudo_ris.pairs.rows import LIST_COLUMNS, PAPER_COLUMNS
from pseudo_ris.pairs.selection_rules import Selection, SelectionRules, Step
from pseudo_ris.records import CaptionRecord, MaskCaptions


def kept_candidates(
    captions: MaskCaptions, threshold: float, fallback: Literal["drop", "unfiltered"] = "drop"
) -> list[CaptionRecord]:
    """The candidates that pass the filter, in their order.

    Those with DoC > threshold; of the only mask of an image, whose DoC is no ratio, the better half by DoC. When none passes,
    "drop" gives none and "unfiltered" all, as the released Dataset does (algorithm: training-time selection).
    """
    if not captions.one_mask:
        passing = [candidate for candidate in captions.candidates if candidate.doc > threshold]
        return list(captions.candidates) if fallback == "unfiltered" and not passing else passing
    best_first = sorted(range(len(captions.candidates)), key=lambda index: -captions.candidates[index].doc)
    better_half = set(best_first[: (len(best_first) + 1) // 2])
    return [candidate for index, candidate in enumerate(captions.candidates) if index in better_half]


def select(pairs: Path, output: Path, rules: SelectionRules, masks: Path | None = None) -> list[Step]:
    """Writes what the rules leave of the pairs CSV `pairs` to `output` and its companions; gives the counts after each rule.

    masks: stage 1's folder; needed, and read, only when a rule asks for areas.
    Raises UserError when an input or a rule does not fit, and when an output is the input.
    """
    _check_output(pairs, output)
    if rules.needs_areas and masks is None:
        raise UserError("--min-area, --max-area: the areas are in stage 1's folder of masks; give it by --masks")
    table = read_table(pairs)
    _check_columns(table, pairs)
    areas = area_shares(masks, table.image_id.strings().tolist(), table.seg_id.tolist()) if rules.needs_areas else None
    selection = Selection(table)
    selection.apply(rules, areas)
    with writing_pairs(output.parent, output.stem, table.columns) as writer:
        for row in table.rows(selection.kept):
            writer.write(row)
    return selection.steps


def _check_output(pairs: Path, output: Path) -> None:
    if output.suffix != ".csv":
        raise UserError(f"--output {output}: must end in .csv")
    for path in pair_files(output.parent, output.stem):
        require_file_place(path, "--output" if path == output else f"--output {output}:")
    if pairs.resolve() in [path.resolve() for path in pair_files(output.parent, output.stem)]:
        raise UserError(f"--output {output}: would replace {pairs}, the input; give another name")


def _check_columns(table: CandidateTable, pairs: Path) -> None:
    further = [column for column in table.columns if column not in PAPER_COLUMNS and column not in LIST_COLUMNS]
    if further:
        raise UserError(f"{pairs}: column {further[0]} is none of stage 2's, it cannot be cut with the others; remove it")
