"""The quality report of a set of pairs: one HTML file with figures, charts and a gallery, to be opened without a network.

pseudo-ris report --pairs FILE.csv --images DIR --masks DIR --output FILE.html
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from pseudo_ris.config import CaptionGenerationConfig
from pseudo_ris.errors import UserError
from pseudo_ris.io.files import require_file_place, write_output
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
    """Writes the report of a pairs CSV; it appears whole. Returns what it was made of.

    max_images: at most this many images are in the gallery; the figures are of all.
    Raises UserError when the CSV does not fit, a folder is missing or the report cannot be written.
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
    views = list(
        tqdm(
            view_images(masks, records, expected, shown),
            desc="images",
            total=len(records),
            unit="image",
            dynamic_ncols=True,
            leave=False,
            disable=None,  # no bar in a log
        )
    )
    gallery = gallery_data(table, selection.kept, [views[index] for index in sorted(shown)], rows, threshold)
    report = Report(pairs.name, table, selection.kept, threshold, views, sorted(shown), gallery, unseen)
    write_output(output, build_page(report))
    return report


def _expected(table: CandidateTable, rows: Mapping[str, Sequence[int]], pairs: Path) -> dict[str, ImageRows]:
    """Each image's id and seg ids by the CSV. Raises UserError when it names an image by two ids or a mask twice."""
    ids = table.image_id.strings()
    expected: dict[str, ImageRows] = {}
    for name, own in rows.items():
        if len({ids[row] for row in own}) > 1:
            raise UserError(f"{pairs}: {name} has two values of img_id; write the file again with stage 2")
        seg_ids = tuple(int(table.seg_id[row]) for row in own)
        if len(set(seg_ids)) < len(seg_ids):
            raise UserError(f"{pairs}: {name} has two rows of one seg_id; write the file again with stage 2")
        expected[name] = ImageRows(str(ids[own[0]]), seg_ids)
    return expected
