"""Trains RIS models on pseudo pairs of drawn images and compares them with a model trained on the ground truth.

Draws a REFER set, runs stages 1 and 2 on its training images, trains a model on each kind of pairs and one on the ground truth,
and measures all on the test scenes. It skips steps that an earlier run has finished. The last line is one JSON object.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

from pseudo_ris.cli.parsing import CommandParser
from pseudo_ris.io.machine import core_count
from pseudo_ris.lab.weakly_supervised import (
    BOTH,
    GROUND_TRUTH,
    ROWS,
    Machine,
    draw_world,
    make_pairs,
    measure_all,
    print_table,
    summary,
    train_all,
)


def main(argv: Sequence[str]) -> int:
    """Runs `pseudo-ris lab weakly-supervised`; returns the exit code. Raises UserError."""
    options = make_parser().parse_args(argv)
    started, machine, out = time.monotonic(), Machine(options.workers), options.out.resolve()

    def say(what: str) -> None:
        print(f"[{(time.monotonic() - started) / 60:5.1f} min] {what}", flush=True)

    say(f"drawing scenes; all results go to {out}")
    draw_world(out, options, machine)
    say("stages 1 and 2 on the training images")
    make_pairs(out, machine)
    say(f"training {len(ROWS) * len(options.seeds)} models")
    train_all(out, ROWS, options, machine)
    say(f"evaluating them on {options.test} test scenes")
    rows = summary(measure_all(out, ROWS, options.seeds, machine))
    say("done; figures at the original image size:\n")
    print_table(rows)
    pseudo, truth = rows[BOTH]["oiou"], rows[GROUND_TRUTH]["oiou"]
    minutes = (time.monotonic() - started) / 60
    figures = {"oiou_pseudo": pseudo, "oiou_ground_truth": truth, "ratio": pseudo / truth if truth else 0.0, "minutes": minutes}
    print(json.dumps(figures | {"seeds": options.seeds, "rows": rows}))
    return 0


def make_parser() -> CommandParser:
    parser = CommandParser("lab weakly-supervised", __doc__)
    parser.add_argument("--out", type=Path, default=Path("demo_output", "weakly_supervised"), help="folder of all results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds of the trainings")
    parser.add_argument("--world-seed", type=int, default=0, help="seed of the drawn scenes")
    for split, count in (("train", 500), ("val", 40), ("test", 100)):
        parser.add_argument(f"--{split}", type=int, default=count, help="scenes")
    parser.add_argument("--steps", type=int, default=2000, help="steps of each training, whatever the number of masks")
    parser.add_argument("--workers", type=int, default=core_count(), help="commands at a time")
    return parser
