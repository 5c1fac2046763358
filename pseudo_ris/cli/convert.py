"""Converts a set of pairs from one format into another.

pseudo-ris convert --from FORMAT IN --to FORMAT OUT [--images DIR]
"""

from __future__ import annotations

from collections.abc import Sequence

from pseudo_ris.cli.parsing import CommandParser
from pseudo_ris.cli.sets import add_input, add_target, write_set
from pseudo_ris.formats.registry import SOURCES


def main(argv: Sequence[str]) -> int:
    """Converts with command-line options `argv`; returns the exit code. Raises UserError."""
    options = make_parser().parse_args(argv)
    write_set(options, lambda: SOURCES[options.source_format](options.input, options.images))
    return 0


def make_parser() -> CommandParser:
    parser = CommandParser("convert", __doc__)
    add_input(parser)
    add_target(parser)
    return parser
