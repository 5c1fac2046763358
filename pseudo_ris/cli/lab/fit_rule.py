"""Fits a rule of selection on drawn validation scenes and judges it on evaluation scenes, beside the preset recommended."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pseudo_ris.cli.parsing import LARGEST_SEED, CommandParser, whole_number
from pseudo_ris.io.files import write_output
from pseudo_ris.lab.fit_rule import FITTED_SPLIT, JUDGED_SPLIT, caption_scenes, fit_on, judge, table


def main(argv: Sequence[str]) -> int:
    """Runs `pseudo-ris lab fit-rule`; returns the exit code. Raises UserError."""
    options = make_parser().parse_args(argv)
    rule = fit_on(caption_scenes(FITTED_SPLIT, options.seed, options.scenes, options.workers))
    if options.output:
        write_output(options.output, rule.text())
    print(f"fitted on: {rule.fitted_on}")
    for term in rule.terms:
        print(f"{term.score:16}{term.weight:+.2f} per standard deviation")
    print()
    print(table(judge(caption_scenes(JUDGED_SPLIT, options.seed, options.scenes, options.workers), rule)))
    return 0


def make_parser() -> CommandParser:
    parser = CommandParser("lab fit-rule", __doc__)
    parser.add_argument("--scenes", type=whole_number(5), default=150, help="scenes of each split")
    parser.add_argument("--seed", type=whole_number(0, LARGEST_SEED), default=0, help="seed of the scenes")
    parser.add_argument("--workers", type=whole_number(1), default=2, help="processes of one thread each")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the rule here")
    return parser
