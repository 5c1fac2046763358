"""Counts the parameters of a MaskRIS model, part by part.

pseudo-ris lab parameters [--model.size base] [--depth 3]
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torchinfo import summary

from pseudo_ris.cli.parsing import CommandParser, whole_number
from pseudo_ris.ris.config import NO_WEIGHTS, ModelConfig
from pseudo_ris.ris.models.maskris.model import MaskRis
from pseudo_ris.ris.models.maskris.sizes import SIZES


def main(argv: Sequence[str]) -> int:
    """Runs `pseudo-ris lab parameters`; returns the exit code. Raises UserError."""
    options = make_parser().parse_args(argv)
    with torch.device("meta"):  # shapes only
        model = MaskRis.from_config(ModelConfig("maskris", options.size, image_weights=NO_WEIGHTS))
    print(summary(model, depth=options.depth, col_names=("num_params",), row_settings=("var_names",), verbose=0))
    return 0


def make_parser() -> CommandParser:
    parser = CommandParser("lab parameters", __doc__)
    parser.add_argument("--model.name", choices=["maskris"], default="maskris", help="the model")
    parser.add_argument("--model.size", dest="size", choices=sorted(SIZES), default="base", help="its size")
    parser.add_argument("--depth", type=whole_number(1), default=3, help="how deep modules are listed")
    return parser
