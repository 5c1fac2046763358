"""Trains the four embedded models on drawn scenes, with one seed for everything.

    pseudo-ris lab train                      all four, into pseudo_ris/assets/weights
    pseudo-ris lab train --models coca clip   some of them; the weights are the same as in a full training

Draws the scenes into a temporary folder; then CutLER and SAM train in one process, CoCa and CLIP in another, each on one
thread.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pseudo_ris.checkpoints.weights import EMBEDDED
from pseudo_ris.cli.parsing import CommandParser
from pseudo_ris.lab.train import CHAINS, FREE_SCENES, MODELS, ORDINARY_SCENES, draw_training_scenes, train_chain
from pseudo_ris.world.scene_set import map_in_processes


def main(argv: Sequence[str]) -> int:
    """Runs `pseudo-ris lab train`; returns the exit code. Raises UserError."""
    options = make_parser().parse_args(argv)
    os.environ["OMP_NUM_THREADS"] = "1"  # read by the processes started below
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        draw_training_scenes(Path(temporary), options.seed, options.scenes, options.free_scenes, options.workers)
        print(f"scenes drawn after {time.monotonic() - started:.0f} s")
        train = partial(train_chain, Path(temporary), options.out, options.seed, options.steps, options.device)
        list(map_in_processes(train, [[name for name in chain if name in options.models] for chain in CHAINS], options.workers))
    print(f"done after {time.monotonic() - started:.0f} s")
    return 0


def make_parser() -> CommandParser:
    parser = CommandParser("lab train", __doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS, help="default: all four")
    parser.add_argument("--seed", type=int, default=0, help="seed of scenes, initial weights and batches")
    parser.add_argument("--out", type=Path, default=EMBEDDED, help="folder of the .safetensors files")
    parser.add_argument("--workers", type=int, default=2, help="processes that draw and train, two at most train")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:0")
    parser.add_argument("--scenes", type=int, default=ORDINARY_SCENES, help="ordinary scenes")
    parser.add_argument("--free-scenes", type=int, default=FREE_SCENES, help="free-form scenes")
    parser.add_argument("--steps", type=int, default=None, help="number of steps")
    return parser
