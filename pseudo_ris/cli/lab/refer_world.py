"""Draws a small RefCOCO of the drawn world: scenes, their objects and what a person might call each, as a REFER set.

`pseudo-ris lab refer-world --out DIR --train 500 --val 60 --test 100 --seed 0` writes

    DIR/drawn/refs(unc).p, instances.json   the set, as REFER reads it
    DIR/drawn/kinds.json                    the groups of each sentence, by its number, which evaluation breaks figures down by
    DIR/images/train, val, test             its images; those of a folder have the ids that the set gives them

Splits: train, val, and testA and testB, which share the test scenes: testA asks for living things, testB for all others
(RefCOCO's ask for people and for all others). The embedded models have seen none of the scenes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from pseudo_ris.formats.outputs import require_free
from pseudo_ris.lab.refer_world import SCENE_SPLITS, SPLITS, World, draw_world, write_world


def main(argv: Sequence[str]) -> int:
    """The command line above."""
    description, _, files = __doc__.partition("\n")
    parser = argparse.ArgumentParser(
        prog="pseudo-ris lab refer-world",
        description=description,
        epilog=files.partition("writes")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write; must not be there yet")
    for folder, size in (("train", 500), ("val", 60), ("test", 100)):
        parser.add_argument(f"--{folder}", type=int, default=size, help=f"scenes of images/{folder} (default: {size})")
    parser.add_argument("--seed", type=int, default=0, help="of scenes and expressions (default: 0)")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw (default: 1)")
    options = parser.parse_args(argv)
    require_free(options.out)
    world = draw_world({folder: getattr(options, folder) for folder in SCENE_SPLITS}, options.seed, options.workers)
    write_world(world, options.out)
    print("\n".join([*_summary(world), f"written to {options.out}"]))
    return 0


def _summary(world: World) -> Iterator[str]:
    for split in SPLITS:
        objects = [each for image in world.images if image.split == split for each in image.objects]
        images = sum(image.split == split for image in world.images)
        sentences = sum(len(each.sentences) for each in objects)
        yield f"{split:6}{images:6} images{len(objects):6} objects{sentences:7} expressions"
