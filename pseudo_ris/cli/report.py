"""Writes a quality report of a set of pairs: one HTML file with figures, charts and a gallery that needs no network.

pseudo-ris report --pairs FILE.csv --images DIR --masks DIR --output FILE.html
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pseudo_ris.cli.parsing import CommandParser, finite_number
from pseudo_ris.report.write import DEMO, MAX_IMAGES, write_report


def main(argv: Sequence[str]) -> int:
    """Runs the command with options `argv`; returns the exit code. Raises UserError."""
    arguments = make_parser().parse_args(argv)
    report = write_report(**vars(arguments))
    problems = sum(len(view.problems) for view in report.views)
    print(f"{len(report.table.seg_id)} masks of {len(report.views)} images, {len(report.shown)} images in the gallery")
    print(f"{problems} problems" + (", listed in the report" if problems else ""))
    print(f"report: {arguments.output}")
    return 0


def make_parser() -> CommandParser:
    folder = Path(DEMO.output)
    pairs, output = folder / f"{DEMO.name}.csv", folder / "report.html"
    parser = CommandParser("report", __doc__)
    parser.add_argument("--pairs", type=Path, default=pairs, help="stage 2's CSV")
    parser.add_argument("--images", type=Path, default=Path(DEMO.images), help="folder of images")
    parser.add_argument("--masks", type=Path, default=Path(DEMO.masks), help="stage 1's folder of masks")
    parser.add_argument("--output", type=Path, default=output, help="HTML file to write")
    parser.add_argument("--threshold", type=finite_number, default=DEMO.scoring.threshold, help="threshold of the DoC filter")
    parser.add_argument("--max-images", type=int, default=MAX_IMAGES, help="largest number of images in the gallery")
    return parser
