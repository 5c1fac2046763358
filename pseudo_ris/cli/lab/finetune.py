"""Fine-tunes CoCa on image-caption pairs with open_clip's training module, on all visible GPUs.

    pseudo-ris lab finetune 'cc3m/{00000..00331}.tar' OUT [options of open_clip_train.main]

The shards are a WebDataset: tar files with NAME.jpg and NAME.txt for each pair. The defaults are those of the paper
(coca_ViT-L-14 from LAION-2B, one epoch) and open_clip's published settings for fine-tuning CoCa. --pretrained accepts the
values of coca.weights. Stage 2 loads the result with --coca.weights OUT/checkpoints/epoch_latest.pt. An interrupted run resumes
after its last complete epoch.
"""

from __future__ import annotations

from argparse import REMAINDER
from collections.abc import Sequence
from pathlib import Path

import torch

from pseudo_ris.cli.parsing import CommandParser
from pseudo_ris.errors import UserError
from pseudo_ris.lab.finetune import CHECKPOINT, run_training, training_arguments, training_command


def main(argv: Sequence[str]) -> int:
    """Runs `pseudo-ris lab finetune`; returns the exit code. Raises UserError."""
    given = make_parser().parse_args(argv)
    if given.out.suffix == ".tar":
        raise UserError(f"{given.out}: is a shard, not the output folder; put the pattern of the shards in quotes")
    out = given.out.resolve()
    gpus = torch.cuda.device_count()
    arguments = training_arguments(given.shards, out, given.options, gpus)
    checkpoint = out / CHECKPOINT
    if checkpoint.exists():
        print(f"{checkpoint} exists: resuming from it; give another folder to start again")
    run_training([*training_command(gpus), *arguments], out / "out.log")
    if not checkpoint.is_file():
        raise UserError(f"{checkpoint}: was not written; see {out / 'out.log'}")
    print(f"fine-tuned; stage 2 takes it as --coca.weights {checkpoint}")
    return 0


def make_parser() -> CommandParser:
    parser = CommandParser("lab finetune", __doc__)
    parser.add_argument("shards", help="pattern of the shards, in quotes")
    parser.add_argument("out", type=Path, help="folder that receives checkpoints, out.log and params.txt")
    parser.add_argument("options", nargs=REMAINDER, help="options of open_clip_train.main, for example --epochs 2")
    return parser
