"""Which scored candidates are good enough to train on.

pseudo-ris select --pairs FILE.csv --output SELECTED.csv [--preset paper] [--RULE VALUE ...]

The output has the columns of the input and of its rows those that have a candidate left, with these candidates only. img_id
and seg_id stay what they are, and so does a rival whose mask has none left; `index` counts the rows that are left. Beside
SELECTED.csv stand SELECTED.json, SELECTED_text.txt and SELECTED_doc.txt, as stage 2 writes them. No model is needed.
"""

from __future__ import annotations

import dataclasses
from argparse import SUPPRESS
from collections.abc import Callable, Sequence
from pathlib import Path

from pseudo_ris.cli.parsing import CommandParser
from pseudo_ris.pairs.selection import select
from pseudo_ris.pairs.selection_rules import PRESETS, SelectionRules, Step


def table_of(steps: Sequence[Step]) -> list[str]:
    """Lines that say what each rule removed, candidates and masks, and what it left; a minus is what a rule brought back."""
    cells = [["", "candidates removed", "left", "masks removed", "left"]]
    for before, step in zip((steps[0], *steps), steps, strict=False):
        counts = (before.candidates - step.candidates, step.candidates, before.masks - step.masks, step.masks)
        cells.append([step.rule, *(f"{count:,}" for count in counts)])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))])
        for row in cells
    ]


def main(argv: Sequence[str]) -> int:
    """The command line above."""
    arguments = vars(make_parser().parse_args(argv))
    pairs, output, masks, preset = (arguments.pop(name) for name in ("pairs", "output", "masks", "preset"))
    steps = select(pairs, output, dataclasses.replace(PRESETS[preset], **arguments), masks)
    print("\n".join([*table_of(steps), f"pairs are in {output}"]))
    return 0


def make_parser() -> CommandParser:
    parser = CommandParser(
        "select",
        __doc__,
        epilog="A rule given here wins over the preset's. Rules apply in the order above; off leaves one out.",
    )
    parser.add_argument("--pairs", type=Path, required=True, help="stage 2's CSV")
    parser.add_argument("--output", type=Path, required=True, help="CSV to write")
    parser.add_argument("--masks", type=Path, help="stage 1's folder of masks, for the rules on areas")
    shown = "; ".join(f"{name}: {_in_words(rules)}" for name, rules in PRESETS.items())
    parser.add_argument("--preset", choices=PRESETS, default="recommended", help=f"{shown}")
    rules = parser.add_argument_group("rules", argument_default=SUPPRESS)
    rules.add_argument("--min-area", type=_or_off(float), metavar="SHARE", help="no mask that is a smaller part of its image")
    rules.add_argument("--max-area", type=_or_off(float), metavar="SHARE", help="no mask that is a larger part of its image")
    rules.add_argument(
        "--max-tokens", type=_or_off(int), metavar="N", help="no sentence of more CLIP tokens, start and end included"
    )
    rules.add_argument("--duplicates", choices=("keep", "drop"), help="drop: each sentence once a mask")
    rules.add_argument(
        "--uniqueness", type=_or_off(float), metavar="X", help="greater uniqueness only; not for an image's only mask"
    )
    rules.add_argument("--correctness", type=_or_off(float), metavar="X", help="greater correctness only")
    rules.add_argument(
        "--doc", type=_or_off(float), metavar="X", help="greater DoC only; of an image's only mask the better half"
    )
    rules.add_argument(
        "--fallback",
        choices=("drop", "unfiltered"),
        help="of a mask that no candidate passes these three: drop it, or keep all",
    )
    rules.add_argument("--ambiguous", choices=("keep", "drop"), help="drop: no sentence that is left to two masks of an image")
    rules.add_argument("--top-k", type=_or_off(int), metavar="K", help="only the best K of a mask, by DoC")
    rules.add_argument("--per-image", type=_or_off(int), metavar="N", help="only the best N of an image, by DoC")
    return parser


def _or_off(kind: Callable[[str], float]) -> Callable[[str], float | None]:
    def parse(text: str) -> float | None:
        return None if text == "off" else kind(text)

    parse.__name__ = f"{kind.__name__} or off"
    return parse


def _in_words(rules: SelectionRules) -> str:
    given = {name: value for name, value in dataclasses.asdict(rules).items() if value is not None}
    return ", ".join(f"{name.replace('_', '-')} {value}" for name, value in given.items())
