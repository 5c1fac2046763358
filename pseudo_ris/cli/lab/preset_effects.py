"""Measures what each of the paper's settings changes, on freshly drawn scenes with the embedded models.

Starts from the demo's settings with the choices of configs/default.yaml and switches each setting that differs in
configs/paper.yaml to the paper's value, alone; the last row switches all. Prints Markdown tables and one JSON object as the
last line.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

from pseudo_ris.cli.parsing import LARGEST_SEED, CommandParser, whole_number
from pseudo_ris.lab.preset_effects import measure, summary, table


def main(argv: Sequence[str]) -> int:
    """Runs `pseudo-ris lab preset-effects`; returns the exit code. Raises UserError."""
    options = make_parser().parse_args(argv)
    started = time.monotonic()
    measured = measure(options.split, options.seed, options.scenes, options.workers)
    seconds = round(time.monotonic() - started, 1)
    print(table(measured))
    print()
    print(json.dumps({"scenes": options.scenes, "seed": options.seed, "seconds": seconds, **summary(measured)}))
    return 0


def make_parser() -> CommandParser:
    parser = CommandParser("lab preset-effects", __doc__)
    parser.add_argument("--scenes", type=whole_number(1), default=100, help="scenes to draw")
    parser.add_argument("--seed", type=whole_number(0, LARGEST_SEED), default=0, help="seed of the scenes")
    parser.add_argument("--split", choices=("evaluation", "validation"), default="evaluation")
    parser.add_argument("--workers", type=whole_number(1), default=2, help="processes of one thread each")
    return parser
