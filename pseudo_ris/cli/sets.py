"""Shared by `export`, `convert` and `unpack`: options, and writing a set that is then read back and compared."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path

from pseudo_ris.formats.registry import DATASET, FORMATS, SOURCES, Writing, check_existing, leaves_image_files, write_verified
from pseudo_ris.io.images import require_outside
from pseudo_ris.pairs.pair_set import PairImage


def add_input(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--from", dest="source_format", choices=tuple(SOURCES), required=True, help="format of IN")
    parser.add_argument("input", metavar="IN", type=Path, help="the set: a file or a folder")
    parser.add_argument(
        "--images", type=Path, help="folder of the images (default: IN/images); not needed where the format holds them"
    )


def add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--to", choices=tuple(FORMATS), required=True, help="format of OUT")
    parser.add_argument(
        "out", metavar="OUT", type=Path, help="file or folder to write; a set that exists there is only compared"
    )
    parser.add_argument("--dataset", default=DATASET, help="name of the set, in formats that store one")
    parser.add_argument(
        "--copy-images", action="store_true", help="copy the images to OUT/images where the format does not hold them"
    )


def write_set(options: argparse.Namespace, source: Callable[[], Iterable[PairImage]]) -> None:
    """Writes a set, reads it back, compares, and prints what it holds; an existing set is only compared. Raises UserError."""
    how = Writing(options.dataset, options.copy_images)
    if options.images and leaves_image_files(options.to, how):
        require_outside(options.out, options.images, "OUT")
    there = options.out.exists() or options.out.is_symlink()
    totals = (check_existing if there else write_verified)(options.out, source, options.to, how)
    made = "already in" if there else "written to"
    print(f"{totals}, {made} {options.out} as {options.to}, read back and found equal")
