"""Measures the embedded models on freshly drawn scenes, against their ground truth.

Prints tables and, as the last line, one JSON object. Use `--split validation` for choosing settings.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

from pseudo_ris.cli.parsing import LARGEST_SEED, CommandParser, whole_number
from pseudo_ris.config import ListenerConfig
from pseudo_ris.lab.evaluate import measure, summary, table


def main(argv: Sequence[str]) -> int:
    """Runs `pseudo-ris lab evaluate`; returns the exit code. Raises UserError."""
    options = make_parser().parse_args(argv)
    started = time.monotonic()
    figures = measure(options.split, options.seed, options.scenes, options.workers, options.weights, options.rivals)
    print(table(figures))
    print()
    print(json.dumps(summary(figures, options.scenes, options.seed, time.monotonic() - started)))
    return 0


def make_parser() -> CommandParser:
    parser = CommandParser("lab evaluate", __doc__)
    parser.add_argument("--scenes", type=whole_number(1), default=300, help="scenes to draw")
    parser.add_argument("--seed", type=whole_number(0, LARGEST_SEED), default=0, help="seed of the scenes")
    parser.add_argument("--split", choices=("evaluation", "validation"), default="evaluation")
    parser.add_argument("--workers", type=whole_number(1), default=2, help="processes of one thread each")
    parser.add_argument("--rivals", type=whole_number(0), default=ListenerConfig().rivals, help="rivals of the listener")
    parser.add_argument("--weights", type=Path, metavar="DIR", help="folder of .safetensors")
    return parser
