"""Fine-tunes CoCa on image-caption pairs with open_clip's own training module, on all visible GPUs.

    pseudo-ris lab finetune 'cc3m/{00000..00331}.tar' OUT [options of open_clip_train.main]

The shards are a WebDataset: tar files that hold NAME.jpg and NAME.txt for each pair. The defaults are the paper's choice,
coca_ViT-L-14 from LAION-2B and one epoch, with the settings that open_clip publishes for fine-tuning CoCa. --pretrained takes
what coca.weights takes. Stage 2 loads the result, OUT/checkpoints/epoch_latest.pt, as --coca.weights. A run that was stopped
goes on after its last whole epoch.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from pseudo_ris.errors import UserError
from pseudo_ris.lab.finetune import CHECKPOINT, run_training, training_arguments, training_command


def main(argv: Sequence[str]) -> int:
    """The command line above."""
    parser = argparse.ArgumentParser(
        prog="finetune_coca.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shards", help="pattern of the shards, in quotes")
    parser.add_argument("out", type=Path, help="folder that receives checkpoints, out.log and params.txt")
    parser.add_argument("options", nargs=argparse.REMAINDER, help="options of open_clip_train.main, for example --epochs 2")
    given = parser.parse_args(argv)
    if given.out.suffix == ".tar":
        raise UserError(f"{given.out}: is where the results should go; put the pattern of the shards in quotes")
    out = given.out.resolve()
    gpus = torch.cuda.device_count()
    arguments = training_arguments(given.shards, out, given.options, gpus)
    checkpoint = out / CHECKPOINT
    if checkpoint.exists():
        print(f"{checkpoint} is there: going on from it; give another folder to start anew")
    run_training([*training_command(gpus), *arguments], out / "out.log")
    if not checkpoint.is_file():
        raise UserError(f"{checkpoint}: was not written; {out / 'out.log'} says what happened")
    print(f"fine-tuned; stage 2 takes it as --coca.weights {checkpoint}")
    return 0
