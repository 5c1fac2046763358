"""Writes stage 2's pairs in a format that trainers read.

pseudo-ris export --to FORMAT OUT [--pairs FILE.csv --images DIR --masks DIR ...]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

from pseudo_ris.cli.parsing import CommandParser, finite_number, whole_number
from pseudo_ris.cli.sets import add_target, write_set
from pseudo_ris.config import CaptionGenerationConfig, ScoringConfig
from pseudo_ris.distinctiveness.groups import GroupRules
from pseudo_ris.errors import UserError
from pseudo_ris.pairs.csv_pairs import read_csv
from pseudo_ris.pairs.groups import read_groups, with_groups
from pseudo_ris.pairs.pair_set import PairImage, with_splits

GREFCOCO = "grefcoco"
STAGE_2 = CaptionGenerationConfig()


def main(argv: Sequence[str]) -> int:
    """Exports with command-line options `argv`; returns the exit code. Raises UserError."""
    options = make_parser().parse_args(argv)
    selection = dataclasses.replace(STAGE_2.scoring, threshold=options.threshold, fallback=options.fallback)
    kept = None if options.all else selection

    if options.groups and options.to != GREFCOCO:
        raise UserError(f"--groups: {options.to} holds expressions of one mask only; use --to {GREFCOCO}")
    groups = read_groups(options.groups, GroupRules(crowded=options.crowded)) if options.groups else {}

    def source() -> Iterable[PairImage]:
        images = read_csv(options.pairs, options.images, options.masks, kept)
        if groups:
            images = with_groups(images, groups)
        return with_splits(images, options.val_share, options.seed)

    write_set(options, source)
    return 0


def make_parser() -> CommandParser:
    parser = CommandParser("export", __doc__)
    add_target(parser)
    pairs = Path(STAGE_2.output, f"{STAGE_2.name}.csv")
    scoring = ScoringConfig()
    parser.add_argument("--pairs", type=Path, default=pairs, help="stage 2's CSV")
    parser.add_argument("--images", type=Path, default=Path(STAGE_2.images), help="folder of the images")
    parser.add_argument("--masks", type=Path, default=Path(STAGE_2.masks), help="folder of the masks")
    parser.add_argument("--threshold", type=finite_number, default=scoring.threshold, help="keep candidates with a greater DoC")
    parser.add_argument(
        "--fallback",
        choices=("drop", "unfiltered"),
        default=scoring.fallback,
        help="when no candidate of a mask passes: drop it, or keep all",
    )
    parser.add_argument("--all", action="store_true", help="keep every candidate of the CSV")
    parser.add_argument(
        "--groups",
        type=Path,
        metavar="FILE.csv",
        help="add expressions of several masks and of none, composed from all candidates: stage 2's CSV (grefcoco only)",
    )
    parser.add_argument(
        "--crowded",
        type=whole_number(0),
        default=GroupRules().crowded,
        metavar="N",
        help="with --groups: no expressions of several masks in images of more than N masks, of which stage 1 misses some",
    )
    parser.add_argument("--val-share", type=float, default=0.0, help="share of the images with split val")
    parser.add_argument("--seed", type=int, default=0, help="seed of the split; an image's split depends on seed and id only")
    return parser
