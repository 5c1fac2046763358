"""Draws scenes with ground truth and writes them as images/scene_00000.png, ... and a COCO instances.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pseudo_ris.cli.parsing import LARGEST_SEED, CommandParser, whole_number
from pseudo_ris.io.terminal import progress
from pseudo_ris.world.coco_writer import write_coco_scenes
from pseudo_ris.world.scenes import SPLITS, draw_scene


def main(argv: Sequence[str]) -> int:
    """Runs `pseudo-ris lab draw-scenes`; returns the exit code. Raises UserError."""
    options = make_parser().parse_args(argv)
    scenes = (draw_scene(options.split, options.seed, index) for index in range(options.count))
    description = f"drawn scenes, split {options.split}, seed {options.seed}"
    target = write_coco_scenes(progress(scenes, "scenes", options.count), options.out, description)
    print(f"{options.count} scenes written; ground truth in {target}")
    return 0


def make_parser() -> CommandParser:
    parser = CommandParser("lab draw-scenes", __doc__)
    parser.add_argument("--count", type=whole_number(1, 100_000), required=True, help="number of scenes")
    parser.add_argument("--seed", type=whole_number(0, LARGEST_SEED), default=0, help="the same seed draws the same scenes")
    parser.add_argument("--split", choices=tuple(SPLITS), default="demo", help="splits never share a scene, whatever the seeds")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; must not hold an instances.json yet")
    return parser
