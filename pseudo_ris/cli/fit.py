"""Fits a rule of selection to labelled candidates: the probability that an expression is right, from all its scores.

pseudo-ris fit --pairs FILE.csv --labels LABELS.csv --output RULE.json

LABELS.csv has the columns img_id, seg_id, sentence and right (1: the sentence means this mask alone; 0: it does not). Judge
what `pseudo-ris select --fitted RULE.json` keeps on other images than the labelled ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pseudo_ris.cli.parsing import CommandParser
from pseudo_ris.io.files import require_file_place, write_output
from pseudo_ris.pairs.candidate_table import read_table
from pseudo_ris.pairs.fitting import fit, read_labels


def main(argv: Sequence[str]) -> int:
    """Runs `pseudo-ris fit`; returns the exit code. Raises UserError."""
    options = make_parser().parse_args(argv)
    require_file_place(options.output, "--output")
    table = read_table(options.pairs)
    rule = fit(table, read_labels(options.labels, table))
    write_output(options.output, rule.text())
    on = rule.fitted_on
    print(f"fitted on {on['candidates']:,} candidates of {on['images']:,} images, {on['right']:,} of them right")
    print(f"on images that were left out: area under the ROC curve {on['auc']:.3f}, Brier score {on['brier']:.3f}")
    print(f"the rule is in {options.output}")
    return 0


def make_parser() -> CommandParser:
    parser = CommandParser("fit", __doc__)
    parser.add_argument("--pairs", type=Path, required=True, help="stage 2's CSV, with all candidates")
    parser.add_argument("--labels", type=Path, required=True, help="CSV of labels")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    return parser
