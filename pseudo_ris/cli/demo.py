"""Runs both stages with the embedded models on 24 drawn scenes; prints a table and draws a contact sheet.

pseudo-ris demo [--out DIR]
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pseudo_ris.cli.parsing import CommandParser
from pseudo_ris.lab.demo import run_demo


def main(argv: Sequence[str]) -> int:
    """Runs the demo with command-line options `argv`; returns the exit code. Raises UserError."""
    options = make_parser().parse_args(argv)
    return run_demo(options.out, options.device)


def make_parser() -> CommandParser:
    parser = CommandParser("demo", __doc__)
    parser.add_argument("--out", type=Path, default=Path("pseudo_ris_demo"), metavar="DIR", help="folder to write")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:0")
    return parser
