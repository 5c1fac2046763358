"""Draws the pairs: each image with its masks outlined, and each mask's best expression in the same colour.

pseudo-ris contact-sheet --images DIR --masks DIR --pairs FILE.csv --sheet FILE.png
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pseudo_ris.cli.parsing import CommandParser, finite_number
from pseudo_ris.visual.contact_sheet import THRESHOLD, write_contact_sheet


def main(argv: Sequence[str]) -> int:
    """Runs the command with options `argv`; returns the exit code. Raises UserError."""
    arguments = make_parser().parse_args(argv)
    write_contact_sheet(
        arguments.images, arguments.masks, arguments.pairs, arguments.sheet, arguments.threshold, arguments.count
    )
    print(f"contact sheet: {arguments.sheet}")
    return 0


def make_parser() -> CommandParser:
    parser = CommandParser("contact-sheet", __doc__)
    parser.add_argument("--images", type=Path, required=True, help="folder of images")
    parser.add_argument("--masks", type=Path, required=True, help="stage 1's folder of masks")
    parser.add_argument("--pairs", type=Path, required=True, help="stage 2's CSV")
    parser.add_argument("--sheet", type=Path, required=True, help="PNG to write")
    parser.add_argument("--threshold", type=finite_number, default=THRESHOLD, help="threshold of the DoC filter")
    parser.add_argument("--count", type=int, default=24, help="largest number of images")
    return parser
