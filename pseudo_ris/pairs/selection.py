"""Selects candidates of scored pairs: the DoC filter of training, and `pseudo-ris select` with its further rules."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.io.files import require_file_place
from pseudo_ris.io.json_fields import entries_of, field, read_json
from pseudo_ris.io.mask_png import decode_mask
from pseudo_ris.io.safe_paths import check_name, file_inside, read_inside
from pseudo_ris.pairs.candidate_table import CandidateTable, read_table
from pseudo_ris.pairs.files import pair_files, writing_pairs
from pseudo_ris.pairs.fitted import read_rule
from pseudo_ris.pairs.rows import LIST_COLUMNS, PAPER_COLUMNS
from pseudo_ris.pairs.selection_rules import Selection, SelectionRules, Step
from pseudo_ris.records import CaptionRecord, MaskCaptions
from pseudo_ris.storage.mask_store import META, require_loose

Fallback = Literal["drop", "unfiltered"]


def kept_candidates(captions: MaskCaptions, threshold: float, fallback: Fallback = "drop") -> list[CaptionRecord]:
    """Returns the candidates of a mask that pass the DoC filter (see kept_indices), in their order."""
    docs = [candidate.doc for candidate in captions.candidates]
    return [captions.candidates[index] for index in kept_indices(docs, captions.one_mask, threshold, fallback)]


def kept_indices(docs: Sequence[float], one_mask: bool, threshold: float, fallback: Fallback) -> list[int]:
    """Returns the indices, ascending, of the candidates of a mask that pass the DoC filter.

    A candidate passes when its DoC > threshold. If the mask is the only one of its image, DoC is not a ratio, and the better
    half by DoC passes instead. When no candidate passes, "drop" returns none and "unfiltered" all, as the released Dataset
    does.
    """
    if not one_mask:
        passing = [index for index, doc in enumerate(docs) if doc > threshold]
        return list(range(len(docs))) if fallback == "unfiltered" and not passing else passing
    best_first = sorted(range(len(docs)), key=lambda index: -docs[index])
    return sorted(best_first[: (len(docs) + 1) // 2])


def select(
    pairs: Path, output: Path, rules: SelectionRules, masks: Path | None = None, fitted: Path | None = None
) -> list[Step]:
    """Writes the candidates of `pairs` that fulfil the rules to `output` (.csv) and its companions (see files.pair_files).

    Keeps all columns; drops rows that have no candidate left. img_id, seg_id and rival stay unchanged, also when the rival mask
    has no candidate left; `index` is renumbered.
    masks: stage 1's folder; read only when a rule needs areas. fitted: file of the rule `probability` (see fitted.read_rule).
    Returns the counts after each rule. Raises UserError when an input or a rule is invalid, or when an output is the input.
    """
    _check_output(pairs, output)
    if rules.needs_areas and masks is None:
        raise UserError("--min-area, --max-area: need the masks; give stage 1's folder with --masks")
    fitted_rule = read_rule(fitted) if fitted else None
    table = read_table(pairs)
    _check_columns(table, pairs)
    areas = area_shares(masks, table.image_id.strings().tolist(), table.seg_id.tolist()) if rules.needs_areas else None
    selection = Selection(fitted_rule.scored(table) if fitted_rule else table)
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
        raise UserError(f"--output {output}: would replace the input {pairs}; give another name")


def _check_columns(table: CandidateTable, pairs: Path) -> None:
    further = [column for column in table.columns if column not in PAPER_COLUMNS and column not in LIST_COLUMNS]
    if further:
        raise UserError(f"{pairs}: column {further[0]} is not a column of stage 2, so it cannot be filtered; remove it")


def area_shares(masks: Path, image_ids: list[str], seg_ids: list[int]) -> np.ndarray:
    """Returns the area of each of M masks as a fraction of its image: float64 [M], in [0, 1].

    masks: folder of `<image id>/<seg id>.png`. Areas come from `_meta/<image id>.json`, or from the PNGs if that file is
    missing. Raises UserError when a mask is missing, a file cannot be read, or an image id leads out of the folder (also by a
    symbolic link).
    """
    if not masks.is_dir():
        raise UserError(f"--masks {masks}: no such folder; give stage 1's folder of masks")
    require_loose(masks)
    indices_of: dict[str, list[int]] = defaultdict(list)
    for index, image_id in enumerate(image_ids):
        indices_of[image_id].append(index)
    shares = np.empty(len(image_ids))
    for image_id, indices in indices_of.items():
        shares[indices] = list(_shares_of_image(masks, image_id, [seg_ids[index] for index in indices]))
    return shares


def _shares_of_image(masks: Path, image_id: str, seg_ids: list[int]) -> Iterator[float]:
    try:
        check_name(image_id)
    except BadInputError as error:
        raise UserError(f"--masks {masks}: img_id {image_id[:40]!r} is not a valid folder name; fix the pairs CSV") from error
    try:
        meta = file_inside(masks, f"{META}/{image_id}.json")
    except BadInputError:
        yield from (_share_of_file(masks, f"{image_id}/{seg_id}.png") for seg_id in seg_ids)
        return
    recorded = _recorded_shares(meta)
    for seg_id in seg_ids:
        if seg_id not in recorded:
            raise UserError(f"{meta}: has no mask {seg_id}; give the folder of masks that the pairs were made from")
        yield recorded[seg_id]


def _recorded_shares(meta: Path) -> dict[int, float]:
    """Returns seg id -> fraction of the image, as stage 1 recorded it."""
    content = read_json(meta)
    entries = list(entries_of(content, meta, "masks"))
    size = content.get("size")
    if not isinstance(size, list) or len(size) != 2 or not all(type(side) is int and side > 0 for side in size):
        raise UserError(f"{meta}: size is not [height, width]; run stage 1 again")
    shares = {field(entry, "seg_id", int, where): field(entry, "area", int, where) for entry, where in entries}
    pixels = size[0] * size[1]
    invalid = next((seg_id for seg_id, area in shares.items() if not 0 <= area <= pixels), None)
    if invalid is not None:
        raise UserError(f"{meta}: area of mask {invalid} is not between 0 and {pixels} pixels; run stage 1 again")
    return {seg_id: area / pixels for seg_id, area in shares.items()}


def _share_of_file(masks: Path, name: str) -> float:
    try:
        return float(decode_mask(read_inside(masks, name)).mean())
    except BadInputError as error:
        raise UserError(f"--masks {masks}, {name}: {error}") from error
