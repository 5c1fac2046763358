"""Stage 1: images -> pseudo masks. CutLER finds the objects, SAM draws them.

    python generate_masks/cutler_sam_masks.py                                  the embedded demo models on the demo images
    python generate_masks/cutler_sam_masks.py --images photos --masks out      your own images
    python generate_masks/cutler_sam_masks.py --lmdb train.lmdb --masks out    the images of an LMDB of ETRIS or CRIS

The images are all of a folder, or those of a COCO file (--coco), a REFER data set (--refer, --split), ETRIS's anns (--anns) or
LMDB (--lmdb).

Masks go to MASKS/<image id>/<seg id>.png (0 or 255, at the image's own size), scores and boxes to MASKS/_meta/. A run that
was stopped goes on where it was; images that cannot be used are listed in MASKS/failures.csv (exit code 3). Processes with
--shard 0/2 and --shard 1/2 share the work; the same command without --shard then ends it. With --shard-size N finished images
go on into files of N each, MASKS/_meta/shards/; `pseudo-ris unshard --masks MASKS` makes PNGs of them again.
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
