"""Draws captioned crops and exports the small CoCa, as data for testing fine-tuning.

Writes DIR/crops, a WebDataset of .jpg and .txt, and DIR/coca_demo, the folder for `--model local-dir:DIR/coca_demo`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pseudo_ris.cli.parsing import CommandParser
from pseudo_ris.lab.finetune_data import (
    CROPS,
    CROPS_PER_SCENE,
    MODEL_FOLDER,
    SEED,
    SHARDS,
    draw_pairs,
    write_model_folder,
    write_webdataset,
)
from pseudo_ris.world.scene_set import build_scene_set


def main(argv: Sequence[str]) -> int:
    """Runs `pseudo-ris lab finetune-data`; returns the exit code. Raises UserError."""
    options = make_parser().parse_args(argv)
    scenes = build_scene_set("train", options.seed, max(1, options.crops // CROPS_PER_SCENE))
    write_webdataset(list(draw_pairs(scenes, options.crops, options.seed)), options.out / "crops", SHARDS)
    write_model_folder(options.out / MODEL_FOLDER)
    print(f"{options.crops} crops with captions in {options.out / 'crops'}, the CoCa to train in {options.out / MODEL_FOLDER}")
    return 0


def make_parser() -> CommandParser:
    parser = CommandParser("lab finetune-data", __doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder that receives crops and coca_demo")
    parser.add_argument("--crops", type=int, default=CROPS, help="crops to draw")
    parser.add_argument("--seed", type=int, default=SEED, help="of scenes and crops")
    return parser
