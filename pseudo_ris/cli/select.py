"""Selects the scored candidates that are good enough to train on.

Writes SELECTED.csv and its companions, as stage 2 does. Keeps all columns; drops rows that have no candidate left.
"""

from __future__ import annotations

import dataclasses
from argparse import SUPPRESS
from collections.abc import Callable, Sequence
from pathlib import Path

from pseudo_ris.cli.parsing import CommandParser
from pseudo_ris.pairs.selection import select
from pseudo_ris.pairs.selection_rules import PRESETS, SelectionRules, Step

RULES = (
    ("min-area", float, "drop masks that cover a smaller share of their image"),
    ("max-area", float, "drop masks that cover a larger share of their image"),
    ("places", ("keep", "drop"), "drop: remove expressions with place words"),
    ("max-tokens", int, "drop sentences with more CLIP tokens, start and end included"),
    ("duplicates", ("keep", "drop"), "drop: keep each sentence once per mask"),
    ("agreement", float, "share of the mask's candidates that have the head noun"),
    ("word-agreement", float, "share of them that say each other content word"),
    ("recognition", float, "of the head noun; 1: CLIP prefers it"),
    ("listener", float, "probability that the captioner finds the mask by the sentence"),
    ("confidence", float, "probability of the least likely token"),
    ("probability", float, "to be right, by the rule of --fitted"),
    ("uniqueness", float, "keep greater values; not applied to an image's only mask"),
    ("correctness", float, "keep greater values"),
    ("doc", float, "keep greater DoC, of an only mask the better half"),
    ("fallback", ("drop", "unfiltered"), "when no candidate of a mask passes: drop it, or keep all"),
    ("redundant", ("keep", "drop"), "drop: minimal wording, no sentence with all words of another one"),
    ("ambiguous", ("keep", "drop"), "drop: remove sentences that two masks of an image still share"),
    ("rank", ("doc", "support"), "what is best: DoC, or repeats x listener x confidence"),
    ("top-k", int, "keep the best of a mask, and as many with place words"),
    ("per-image", int, "keep the best of an image, and as many with place words"),
)
"""Name, type or choices, and meaning of each rule, in the order in which they apply."""


def table_of(steps: Sequence[Step]) -> list[str]:
    """Lines of a table: candidates and masks that each rule removed and left; a negative number means restored."""
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
    """Selects with command-line options `argv`; returns the exit code. Raises UserError."""
    arguments = vars(make_parser().parse_args(argv))
    pairs, output, masks, fitted = (arguments.pop(name) for name in ("pairs", "output", "masks", "fitted"))
    preset = arguments.pop("preset") or ("fitted" if fitted else "recommended")
    steps = select(pairs, output, dataclasses.replace(PRESETS[preset], **arguments), masks, fitted)
    print("\n".join([*table_of(steps), f"pairs are in {output}"]))
    return 0


def make_parser() -> CommandParser:
    parser = CommandParser(
        "select",
        __doc__,
        usage="pseudo-ris select --pairs FILE.csv --output SELECTED.csv [OPTIONS]",
        epilog="A rule given here overrides the preset; off disables it. Rules apply in the order above, those on scores "
        "(agreement to doc) not to place words.",
    )
    parser.add_argument("--pairs", type=Path, required=True, help="stage 2's CSV")
    parser.add_argument("--output", type=Path, required=True, help="CSV to write")
    parser.add_argument("--masks", type=Path, help="stage 1's folder of masks, for the rules on areas")
    parser.add_argument(
        "--fitted", type=Path, metavar="FILE", help="a rule that `pseudo-ris fit` wrote; makes fitted the default preset"
    )
    shown = "; ".join(f"{name}: {_in_words(rules)}" for name, rules in PRESETS.items() if name != "fitted")
    parser.add_argument("--preset", choices=PRESETS, help=f"{shown}; fitted: probability 0.9")
    rules = parser.add_argument_group("rules", argument_default=SUPPRESS)
    for name, kind, meaning in RULES:
        how = {"choices": kind} if isinstance(kind, tuple) else {"type": _or_off(kind), "metavar": "N" if kind is int else "X"}
        rules.add_argument(f"--{name}", help=meaning, **how)
    return parser


def _or_off(kind: Callable[[str], float]) -> Callable[[str], float | None]:
    def parse(text: str) -> float | None:
        return None if text == "off" else kind(text)

    parse.__name__ = f"{kind.__name__} or off"
    return parse


def _in_words(rules: SelectionRules) -> str:
    usual = dataclasses.asdict(SelectionRules())
    given = {name: value for name, value in dataclasses.asdict(rules).items() if value != usual[name]}
    return ", ".join(f"{name.replace('_', '-')} {value}" for name, value in given.items())
