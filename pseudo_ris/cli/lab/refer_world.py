"""Draws a small REFER data set of the drawn world, like RefCOCO: scenes, objects and expressions for each object.

Writes:

    DIR/drawn/refs(unc).p, instances.json   the set in REFER's format
    DIR/drawn/kinds.json                    the groups of each sentence, which evaluation reports separately
    DIR/images/train, val, test             the images

Splits: train, val, testA and testB. The last two share the test scenes: testA refers to living things, testB to all others
(RefCOCO: people and all others). The embedded models have not seen any of the scenes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pseudo_ris.cli.parsing import CommandParser
from pseudo_ris.formats.outputs import require_free
from pseudo_ris.lab.refer_world import SCENE_SPLITS, SPLITS, World, draw_world, write_world


def main(argv: Sequence[str]) -> int:
    """Runs `pseudo-ris lab refer-world`; returns the exit code. Raises UserError."""
    options = make_parser().parse_args(argv)
    require_free(options.out)
    world = draw_world({folder: getattr(options, folder) for folder in SCENE_SPLITS}, options.seed, options.workers)
    write_world(world, options.out)
    print("\n".join([*_summary(world), f"written to {options.out}"]))
    return 0


def make_parser() -> CommandParser:
    parser = CommandParser("lab refer-world", __doc__)
    parser.add_argument("--out", type=Path, required=True, help="new folder to write")
    for folder, size in (("train", 500), ("val", 60), ("test", 100)):
        parser.add_argument(f"--{folder}", type=int, default=size, help=f"scenes of images/{folder}")
    parser.add_argument("--seed", type=int, default=0, help="seed of scenes and expressions")
    parser.add_argument("--workers", type=int, default=1, help="number of processes")
    return parser


def _summary(world: World) -> Iterator[str]:
    for split in SPLITS:
        objects = [each for image in world.images if image.split == split for each in image.objects]
        images = sum(image.split == split for image in world.images)
        sentences = sum(len(each.sentences) for each in objects)
        yield f"{split:6}{images:6} images{len(objects):6} objects{sentences:7} expressions"
