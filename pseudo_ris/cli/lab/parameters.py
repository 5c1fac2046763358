"""Counts the parameters of each part of a RIS model and shows the arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pseudo_ris.cli.parsing import CommandParser
from pseudo_ris.ris.config import NO_WEIGHTS, ModelConfig
from pseudo_ris.ris.models.maskris.model import MaskRis
from pseudo_ris.ris.models.maskris.sizes import SIZES
from pseudo_ris.ris.models.parameters import parts_of


def main(argv: Sequence[str]) -> int:
    """Runs `pseudo-ris lab parameters`; returns the exit code. Raises UserError."""
    size_name = make_parser().parse_args(argv).size
    with torch.device("meta"):
        model = MaskRis.from_config(ModelConfig("maskris", size_name, image_weights=NO_WEIGHTS))
    size = SIZES[size_name]
    print(f"{'part':28} {'parameters':>12}  arithmetic")
    for part in parts_of(size, size.window, size.bert_words or model.tokenizer.vocabulary):
        print(f"{part.name:28} {part.count(model):12,}  {part.formula}")
    print(f"{'all':28} {sum(parameter.numel() for parameter in model.parameters()):12,}")
    return 0


def make_parser() -> CommandParser:
    parser = CommandParser("lab parameters", __doc__)
    parser.add_argument("--model.name", choices=["maskris"], default="maskris")
    parser.add_argument("--model.size", dest="size", choices=sorted(SIZES), default="base")
    return parser
