"""Stage 1: images -> pseudo masks. CutLER finds the objects, SAM draws them.

    python generate_masks/cutler_sam_masks.py                                  the embedded demo models on the demo images
    python generate_masks/cutler_sam_masks.py --images photos --masks out      your own images
    python generate_masks/cutler_sam_masks.py --lmdb train.lmdb --masks out    the images of an LMDB of ETRIS or CRIS

The images come from a folder, or are those of it that a COCO file (--coco), a REFER data set (--refer, --split), ETRIS's anns
(--anns) or LMDB (--lmdb) lists.

Masks are written to MASKS/<image id>/<seg id>.png (0 or 255, at the image's size), scores and boxes to MASKS/_meta/. An
interrupted run continues where it stopped. Images that cannot be used are listed in MASKS/failures.csv (exit code 3).
Processes with --shard 0/2 and --shard 1/2 share the work; the same command without --shard then finishes it. --shard-size N
stores finished images in files of N images, MASKS/_meta/shards/; `pseudo-ris unshard --masks MASKS` turns them back into PNGs.
"""

from __future__ import annotations

from collections.abc import Sequence

from pseudo_ris.cli import stage_options
from pseudo_ris.cli.parsing import CommandParser
from pseudo_ris.cli.stage_options import parse_stage
from pseudo_ris.config import MaskGenerationConfig
from pseudo_ris.stages.masks import generate_masks

FIRST = ["images", "device", "engine", "workers", "shard", "shard_size", "retry_failed"]
"""The settings that `--help` shows."""


def main(argv: Sequence[str]) -> int:
    """Runs the stage with command-line options `argv`; returns the exit code (0, or 3 when images failed)."""
    return generate_masks(parse_stage(MaskGenerationConfig, argv, "masks", __doc__, FIRST))


def make_parser() -> CommandParser:
    return stage_options.make_parser(MaskGenerationConfig, "masks", __doc__)
