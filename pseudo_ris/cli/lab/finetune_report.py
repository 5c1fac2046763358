"""Measures what fine-tuning changed in the small CoCa: caption loss and judged captions before and after, on new scenes.

Prints a table and one JSON object as the last line. Exits with 1 if the loss did not fall or the captions did not improve.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pseudo_ris.cli.parsing import CommandParser
from pseudo_ris.io.terminal import print_error
from pseudo_ris.lab.finetune_report import FAILED, SCENES, SEED, SPLIT, measure, shortcomings, table, training_losses
from pseudo_ris.world.scenes import draw_scene


def main(argv: Sequence[str]) -> int:
    """Runs `pseudo-ris lab finetune-report`; returns the exit code. Raises UserError."""
    options = make_parser().parse_args(argv)
    losses = training_losses(options.log)
    scenes = [draw_scene(SPLIT, options.seed, index) for index in range(options.scenes)]
    before, after = (measure(weights, scenes) for weights in ("demo", options.weights))
    result = {
        "scenes": options.scenes,
        "seed": options.seed,
        "captions": after.beams.captions,
        "training_loss": [losses[0], losses[-1]],
        "before": before.figures(),
        "after": after.figures(),
    }
    missing = shortcomings(result["before"], result["after"], losses)
    print(table(result["before"], result["after"], losses))
    for message in missing:
        print_error(message)
    print(json.dumps(result))
    return FAILED if missing else 0


def make_parser() -> CommandParser:
    parser = CommandParser("lab finetune-report", __doc__)
    parser.add_argument("--weights", required=True, help="the fine-tuned checkpoint of the small CoCa")
    parser.add_argument("--log", type=Path, required=True, help="out.log of its training")
    parser.add_argument("--scenes", type=int, default=SCENES, help="scenes to draw")
    parser.add_argument("--seed", type=int, default=SEED, help="seed of the scenes")
    return parser
