"""Stage 3: mask-expression pairs -> a model that segments what a sentence refers to.

    python train_ris/train.py --data.dataset refcoco+ --data.refer_root data --data.images data/images/train2014
    python train_ris/train.py --data.pairs pseudo_supervision/cutler_sam/distinctive_captions_cc3m.csv
    torchrun --nproc_per_node 4 train_ris/train.py --config configs/maskris.yaml --data.dataset refcoco+ --output ris/refcoco+

Trains on the ground truth of a REFER set, on the pairs of stage 2, or on both. Writes best.pt (the weights with the best oIoU
on the validation split), last.pt, log.csv and TensorBoard files to OUTPUT. An interrupted run continues when it is started
again with the same settings. The processes of torchrun, one per GPU, share each batch.
"""

from __future__ import annotations

from collections.abc import Sequence

from pseudo_ris.cli import stage_options
from pseudo_ris.cli.parsing import CommandParser
from pseudo_ris.cli.stage_options import parse_stage
from pseudo_ris.io.gc_tuning import no_collection
from pseudo_ris.ris.config import TrainConfig

FIRST = [
    "data.dataset",
    "data.refer_root",
    "data.images",
    "data.pairs",
    "data.pair_images",
    "data.pair_masks",
    "output",
    "model.name",
    "model.size",
    "masking.image",
    "masking.text",
    "schedule.epochs",
    "schedule.batch_size",
    "device",
]
"""The settings that `--help` shows."""


def main(argv: Sequence[str]) -> int:
    """Runs a training with command-line options `argv`; returns the exit code (0, 130 or 143 when it was stopped)."""
    config = parse_stage(TrainConfig, argv, "train", __doc__, FIRST)
    with no_collection():  # here, so that --help and wrong options need no model
        from pseudo_ris.ris.training.train import train

    return train(config)


def make_parser() -> CommandParser:
    return stage_options.make_parser(TrainConfig, "train", __doc__)
