"""Brings pairs into the formats that trainers read, from one of them into another, and into folders of images and masks.

python -m pseudo_ris.interchange export --to FORMAT OUT [--pairs FILE.csv --images DIR --masks DIR ...]
python -m pseudo_ris.interchange convert --from FORMAT IN --to FORMAT OUT [--images DIR]
python -m pseudo_ris.interchange unpack --from FORMAT IN OUT [--images DIR]
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from pseudo_ris.cli import finite_number, run_recipe
from pseudo_ris.config import CaptionGenerationConfig, ScoringConfig
from pseudo_ris.images import require_outside
from pseudo_ris.interchange.csv_pairs import read_csv
from pseudo_ris.interchange.formats import DATASET, FORMATS, Writing, check_existing, leaves_image_files, write_verified
from pseudo_ris.interchange.outputs import require_free
from pseudo_ris.interchange.pair_set import PairImage
from pseudo_ris.interchange.split import with_splits
from pseudo_ris.interchange.unpack import unpack

STAGE_2 = CaptionGenerationConfig()


def main(argv: Sequence[str]) -> int:
    """Writes a set, reads it back, compares, and says what it holds. Returns the exit code. Raises UserError.

    A set that is there already is compared with what was to be written.
    """
    options = _parse(argv)
    if options.command == "unpack":
        if options.images:
            require_outside(options.out, options.images, "OUT")
        require_free(options.out)
        totals = unpack(FORMATS[options.source_format].read(options.input, options.images), options.out)
        print(f"{totals.images} images, {totals.objects} masks, written to images and masks in {options.out}")
        return 0
    how = Writing(options.dataset, options.copy_images)
    if options.images and leaves_image_files(options.to, how):
        require_outside(options.out, options.images, "OUT")
    there = options.out.exists() or options.out.is_symlink()
    totals = (check_existing if there else write_verified)(options.out, options.source(options), options.to, how)
    made = "already in" if there else "written to"
    print(f"{totals}, {made} {options.out} as {options.to}, read back and found equal")
    return 0


def _exported(options: argparse.Namespace) -> Callable[[], Iterable[PairImage]]:
    selection = dataclasses.replace(STAGE_2.scoring, threshold=options.threshold, fallback=options.fallback)
    kept = None if options.all else selection

    def source() -> Iterable[PairImage]:
        images = read_csv(options.pairs, options.images, options.masks, kept)
        return with_splits(images, options.val_share, options.seed)

    return source


def _converted(options: argparse.Namespace) -> Callable[[], Iterable[PairImage]]:
    return lambda: FORMATS[options.source_format].read(options.input, options.images)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pseudo_ris.interchange",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="export | convert | unpack", dest="command")
    _add_export(commands.add_parser("export", help="stage 2's pairs", formatter_class=argparse.ArgumentDefaultsHelpFormatter))
    _add_convert(commands.add_parser("convert", help="a set in one of the formats"))
    _add_unpack(commands.add_parser("unpack", help="a set's images and masks as folders, for the report and for export"))
    return parser.parse_args(argv)


def _add_export(parser: argparse.ArgumentParser) -> None:
    _add_target(parser)
    pairs = Path(STAGE_2.output, f"{STAGE_2.name}.csv")
    scoring = ScoringConfig()
    parser.add_argument("--pairs", type=Path, default=pairs, help="stage 2's CSV")
    parser.add_argument("--images", type=Path, default=Path(STAGE_2.images), help="folder of the images")
    parser.add_argument("--masks", type=Path, default=Path(STAGE_2.masks), help="folder of the masks")
    parser.add_argument(
        "--threshold", type=finite_number, default=scoring.threshold, help="candidates with a greater DoC are kept"
    )
    parser.add_argument(
        "--fallback", choices=("drop", "unfiltered"), default=scoring.fallback, help="of a mask none of whose candidates pass"
    )
    parser.add_argument("--all", action="store_true", help="keep every candidate of the CSV")
    parser.add_argument("--val-share", type=float, default=0.0, help="share of the images whose split is val")
    parser.add_argument("--seed", type=int, default=0, help="of the split; an image's split depends on seed and id only")
    parser.set_defaults(source=_exported)


def _add_convert(parser: argparse.ArgumentParser) -> None:
    _add_input(parser)
    _add_target(parser)
    parser.set_defaults(source=_converted)


def _add_unpack(parser: argparse.ArgumentParser) -> None:
    _add_input(parser)
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to write; must not exist")


def _add_input(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--from", dest="source_format", choices=tuple(FORMATS), required=True, help="format of IN")
    parser.add_argument("input", metavar="IN", type=Path, help="the set: a file or a folder")
    parser.add_argument("--images", type=Path, help="folder of the images, default IN/images; some formats hold them")


def _add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--to", choices=tuple(FORMATS), required=True, help="format of OUT")
    parser.add_argument(
        "out", metavar="OUT", type=Path, help="file or folder to write; free, or the very set that is to be written"
    )
    parser.add_argument("--dataset", default=DATASET, help="name of the set, in formats that have one")
    parser.add_argument(
        "--copy-images", action="store_true", help="put the images into OUT/images where the format does not hold them"
    )


if __name__ == "__main__":
    run_recipe(main)
