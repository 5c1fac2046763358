"""Compares parts of the method on freshly drawn scenes, with 95% intervals (bootstrap over scenes).

Studies: parts (of selection), look-alikes (2 to 8 in an image), thresholds, calibration (forms and weights), diversity (of
sampling). Prints a table per study; with --out also STUDY.csv and STUDY.png (needs the extra `lab`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pseudo_ris.cli.parsing import LARGEST_SEED, CommandParser, whole_number
from pseudo_ris.io.files import write_output
from pseudo_ris.lab.ablate import csv_text, run_study, table
from pseudo_ris.lab.ablate_plots import check_matplotlib, draw_figure
from pseudo_ris.lab.studies import STUDIES


def main(argv: Sequence[str]) -> int:
    """Runs `pseudo-ris lab ablate`; returns the exit code. Raises UserError."""
    options = make_parser().parse_args(argv)
    if options.out:
        check_matplotlib()
        options.out.mkdir(parents=True, exist_ok=True)
    for name in options.studies:
        measured = run_study(name, options.split, options.seed, options.scenes, options.workers)
        print(table(name, measured), end="\n\n", flush=True)
        if options.out:
            write_output(options.out / f"{name}.csv", csv_text(name, measured))
            write_output(options.out / f"{name}.png", draw_figure(name, measured))
    return 0


def make_parser() -> CommandParser:
    parser = CommandParser("lab ablate", __doc__)
    parser.add_argument("--studies", nargs="+", choices=tuple(STUDIES), default=tuple(STUDIES), help="default: all")
    parser.add_argument("--scenes", type=whole_number(2), default=150, help="scenes to draw; each is measured at every point")
    parser.add_argument("--seed", type=whole_number(0, LARGEST_SEED), default=0, help="seed of the scenes")
    parser.add_argument("--split", choices=("evaluation", "validation"), default="evaluation")
    parser.add_argument("--workers", type=whole_number(1), default=2, help="processes of one thread each")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write STUDY.csv and STUDY.png here")
    return parser
