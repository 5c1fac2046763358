"""Stage 3, evaluation: how well a trained model segments what sentences refer to.

    python train_ris/evaluate.py --checkpoint ris/run/best.pt                          all splits but train of its own data set
    python train_ris/evaluate.py --checkpoint C --dataset refcocog --splits val test   a data set it was not trained on
    python train_ris/evaluate.py --checkpoint C --predictions out/predictions          and a picture of every prediction
    python train_ris/evaluate.py --model zero-shot --dataset refcocog                  no training: CLIP chooses stage 1's masks

Prints oIoU, mIoU and P@0.5 to P@0.9 of each split in percent, at the model's size (ground truth resized to its square, as in
MaskRIS's evaluator) and at the images' size, also for each kind of expression if the set has kinds. The last line holds the
same figures as JSON, from 0 to 1. Predictions are written to PREDICTIONS/<split>/.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from pseudo_ris.cli import stage_options
from pseudo_ris.cli.parsing import CommandParser
from pseudo_ris.cli.stage_options import parse_stage
from pseudo_ris.io.gc_tuning import no_collection
from pseudo_ris.ris.config import EvaluateConfig

FIRST = ["checkpoint", "model", "dataset", "splits", "refer_root", "images", "predictions", "batch_size", "device"]
"""The settings that `--help` shows."""


def main(argv: Sequence[str]) -> int:
    """Evaluates with command-line options `argv`; returns the exit code."""
    config = parse_stage(EvaluateConfig, argv, "evaluate", __doc__, FIRST)
    with no_collection():  # here, so that --help and wrong options need no model
        if config.model == "checkpoint":
            from pseudo_ris.ris.evaluation.split_results import evaluate_checkpoint as evaluate
        else:
            from pseudo_ris.stages.zero_shot import evaluate_zero_shot as evaluate

    print(json.dumps(evaluate(config)))
    return 0


def make_parser() -> CommandParser:
    return stage_options.make_parser(EvaluateConfig, "evaluate", __doc__)
