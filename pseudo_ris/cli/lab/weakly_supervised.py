"""Trains RIS models on pseudo pairs of drawn images and compares them with models without training and on the ground truth.

Draws a REFER set, runs stages 1 and 2 on its training images, trains a model on the pairs that the paper keeps, one on those
that are recommended and one on the ground truth, and measures all on the test scenes, beside the embedded models that made the
pairs. With --semi it compares shares of the ground truth alone and with the recommended pairs instead. It skips steps that an
earlier run has finished. The last line is one JSON object.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

from pseudo_ris.cli.parsing import CommandParser
from pseudo_ris.io.machine import core_count
from pseudo_ris.lab.weakly_supervised import (
    ROWS,
    Machine,
    draw_world,
    last_line,
    make_features,
    make_pairs,
    measure_all,
    print_table,
    rows_of,
    summary,
    train_all,
)


def main(argv: Sequence[str]) -> int:
    """Runs `pseudo-ris lab weakly-supervised`; returns the exit code. Raises UserError."""
    options = make_parser().parse_args(argv)
    started, machine, out = time.monotonic(), Machine(options.workers), options.out.resolve()
    rows = rows_of(options.semi) if options.semi else ROWS

    def say(what: str) -> None:
        print(f"[{(time.monotonic() - started) / 60:5.1f} min] {what}", flush=True)

    say(f"drawing scenes; all results go to {out}")
    draw_world(out, options, machine)
    say("stages 1 and 2 on the training images")
    make_pairs(out, machine)
    say("image features of the students")
    make_features(out, machine)
    say(f"training {sum(not row.judge for row in rows) * len(options.seeds)} models")
    train_all(out, rows, options, machine)
    say(f"evaluating on {options.test} test scenes")
    figures = summary(measure_all(out, rows, options.seeds, machine))
    say("done; figures at the original image size:\n")
    print_table(figures)
    print(json.dumps(last_line(figures, (time.monotonic() - started) / 60, options.seeds)))
    return 0


def make_parser() -> CommandParser:
    parser = CommandParser("lab weakly-supervised", __doc__)
    parser.add_argument("--out", type=Path, default=Path("demo_output", "weakly_supervised"), help="folder of all results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds of the trainings")
    parser.add_argument("--world-seed", type=int, default=0, help="seed of the drawn scenes")
    for split, count in (("train", 2000), ("val", 60), ("test", 100)):
        parser.add_argument(f"--{split}", type=int, default=count, help="scenes")
    parser.add_argument("--steps", type=int, default=2000, help="steps of each training, whatever the number of masks")
    parser.add_argument(
        "--semi", type=float, nargs="+", metavar="PERCENT", help="shares of the ground truth, with and without pairs"
    )
    parser.add_argument("--workers", type=int, default=core_count(), help="commands at a time")
    return parser
