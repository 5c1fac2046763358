"""Turns shards back into one file per image, as a run without --shard-size writes them.

pseudo-ris unshard --masks DIR
pseudo-ris unshard --output DIR [--name NAME]
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pseudo_ris.cli.parsing import CommandParser
from pseudo_ris.config import CaptionGenerationConfig
from pseudo_ris.errors import UserError
from pseudo_ris.runtime.shares import ALL
from pseudo_ris.storage.caption_parts import PartStore
from pseudo_ris.storage.mask_store import MaskStore
from pseudo_ris.storage.unsharding import loosen


def main(argv: Sequence[str]) -> int:
    """Unshards with command-line options `argv`; returns the exit code. Raises UserError."""
    options = make_parser().parse_args(argv)
    store = MaskStore.existing(options.masks) if options.masks else PartStore(options.output, options.name)
    if not store.folder.is_dir():
        raise UserError(f"{store.folder}: no such folder; give what the stage had as --output and --name")
    with store.working(ALL):
        print(f"{loosen(store)} images have files of their own again in {store.folder}")
    return 0


def make_parser() -> CommandParser:
    parser = CommandParser("unshard", __doc__)
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--masks", type=Path, help="stage 1's folder")
    place.add_argument("--output", type=Path, help="stage 2's folder")
    parser.add_argument("--name", default=CaptionGenerationConfig().name, help="NAME of stage 2's files")
    return parser
