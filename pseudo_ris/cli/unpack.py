"""Writes a set's images and masks as two folders, which the report and the export read.

pseudo-ris unpack --from FORMAT IN OUT [--images DIR]
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pseudo_ris.cli.parsing import CommandParser
from pseudo_ris.cli.sets import add_input
from pseudo_ris.formats.outputs import require_free
from pseudo_ris.formats.registry import SOURCES
from pseudo_ris.formats.unpack import unpack
from pseudo_ris.io.images import require_outside


def main(argv: Sequence[str]) -> int:
    """Unpacks with command-line options `argv`; returns the exit code. Raises UserError."""
    options = make_parser().parse_args(argv)
    if options.images:
        require_outside(options.out, options.images, "OUT")
    require_free(options.out)
    totals = unpack(SOURCES[options.source_format](options.input, options.images), options.out)
    print(f"{totals.images} images, {totals.objects} masks, written to images and masks in {options.out}")
    return 0


def make_parser() -> CommandParser:
    parser = CommandParser("unpack", __doc__)
    add_input(parser)
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to write; must not exist")
    return parser
