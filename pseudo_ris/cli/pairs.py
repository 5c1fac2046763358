"""Stage 2: images and their masks -> mask-expression pairs. CoCa writes candidate expressions, CLIP scores them.

    python generate_pseudo_supervision/distinctive_caption_generation.py                 the demo models, stage 1's masks
    python generate_pseudo_supervision/distinctive_caption_generation.py --images photos --masks out --output pairs

The images come from a folder, or are those of it that a COCO file (--coco), a REFER data set (--refer, --split), ETRIS's anns
(--anns) or LMDB (--lmdb) lists. MASKS is stage 1's folder, or with --mask-format coco or refer a file whose annotations are
the masks.

OUTPUT/NAME.csv holds 44 candidates per mask with their distinctiveness (DoC). OUTPUT/NAME.parts/ holds one JSON per image with
all score parts. An interrupted run continues where it stopped. Images that cannot be used are listed in OUTPUT/failures.csv
(exit code 3). Processes with --shard 0/2 and --shard 1/2 share the work; the same command without --shard then assembles the
files. --shard-size N stores finished parts in files of N images, OUTPUT/NAME.parts/shards/.
"""

from __future__ import annotations

from collections.abc import Sequence

from pseudo_ris.cli import stage_options
from pseudo_ris.cli.parsing import CommandParser
from pseudo_ris.cli.stage_options import parse_stage
from pseudo_ris.config import CaptionGenerationConfig
from pseudo_ris.stages.captions import generate_pairs

FIRST = ["images", "masks", "output", "name", "device", "engine", "workers", "shard", "retry_failed", "scoring.threshold"]
"""The settings that `--help` shows."""


def main(argv: Sequence[str]) -> int:
    """Runs the stage with command-line options `argv`; returns the exit code (0, or 3 when images failed)."""
    return generate_pairs(parse_stage(CaptionGenerationConfig, argv, "pairs", __doc__, FIRST))


def make_parser() -> CommandParser:
    return stage_options.make_parser(CaptionGenerationConfig, "pairs", __doc__)
