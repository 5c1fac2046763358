"""Compares the masks and pairs of drawn scenes with their ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pseudo_ris.cli.parsing import CommandParser
from pseudo_ris.config import CaptionGenerationConfig, MaskGenerationConfig
from pseudo_ris.lab.summary import summarise


def main(argv: Sequence[str]) -> int:
    """Runs `pseudo-ris lab summary`; returns the exit code. Raises UserError."""
    options = make_parser().parse_args(argv)
    print("\n".join(summarise(options.scenes, options.masks, options.output, options.name, options.threshold)))
    return 0


def make_parser() -> CommandParser:
    stage1, stage2 = MaskGenerationConfig(), CaptionGenerationConfig()
    parser = CommandParser("lab summary", __doc__)
    parser.add_argument("--scenes", type=Path, default=Path(stage1.images).parent, help="drawn scenes with instances.json")
    parser.add_argument("--masks", type=Path, default=Path(stage1.masks), help="stage 1's folder")
    parser.add_argument("--output", type=Path, default=Path(stage2.output), help="stage 2's folder")
    parser.add_argument("--name", default=stage2.name, help="NAME of stage 2's files")
    parser.add_argument("--threshold", type=float, default=stage2.scoring.threshold, help="of the DoC filter")
    return parser
