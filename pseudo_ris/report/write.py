"""Writes the quality report of pairs: one self-contained HTML file with figures, charts and a gallery (`pseudo-ris report`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pseudo_ris.config import CaptionGenerationConfig
from pseudo_ris.errors import UserError
from pseudo_ris.io.files import require_file_place, write_output
from pseudo_ris.io.terminal import progress
from pseudo_ris.pairs.candidate_table import CandidateTable, read_table
from pseudo_ris.pairs.selection_rules import Selection, SelectionRules
from pseudo_ris.report.gallery import ImageRows, evenly, images_of, view_images
from pseudo_ris.report.page import Report, build_page
from pseudo_ris.report.page_data import gallery_data, rows_by_image

DEMO = CaptionGenerationConfig()
MAX_IMAGES = 2000


def write_report(
    pairs: Path, images: Path, masks: Path, output: Path, threshold: float, max_images: int = MAX_IMAGES
) -> Report:
    """Writes the report of a pairs CSV to `output` and returns its content.

    max_images: maximum number of images in the gallery; the figures cover all images.
    Raises UserError when the CSV is invalid, a folder is missing or the report cannot be written.
    """
    if max_images < 0:
        raise UserError(f"--max-images {max_images}: must be 0 or more")
    require_file_place(output, "--output")
    table = read_table(pairs)
    selection = Selection(table)
    selection.apply(SelectionRules(doc=threshold))
    rows = rows_by_image(table)
    expected = _expected(table, rows, pairs)
    records, unseen = images_of(images, masks, expected)
    shown = evenly(len(records), max_images)
    views = list(progress(view_images(masks, records, expected, shown), "images", len(records), leave=False))
    gallery = gallery_data(table, selection.kept, [views[index] for index in sorted(shown)], rows, threshold)
    report = Report(pairs.name, table, selection.kept, threshold, views, sorted(shown), gallery, unseen)
    write_output(output, build_page(report))
    return report


def _expected(table: CandidateTable, rows: Mapping[str, Sequence[int]], pairs: Path) -> dict[str, ImageRows]:
    """Returns the id and seg ids of each image. Raises UserError when an image has two ids or a mask has two rows."""
    ids = table.image_id.strings()
    expected: dict[str, ImageRows] = {}
    for name, own in rows.items():
        if len({ids[row] for row in own}) > 1:
            raise UserError(f"{pairs}: {name} has two values of img_id; run stage 2 again")
        seg_ids = tuple(int(table.seg_id[row]) for row in own)
        if len(set(seg_ids)) < len(seg_ids):
            raise UserError(f"{pairs}: {name} has two rows with one seg_id; run stage 2 again")
        expected[name] = ImageRows(str(ids[own[0]]), seg_ids)
    return expected
