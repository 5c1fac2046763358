"""Fine-tunes CoCa on image-caption pairs with open_clip's own training module, on all visible GPUs.

    pseudo-ris lab finetune 'cc3m/{00000..00331}.tar' OUT [options of open_clip_train.main]

The shards are a WebDataset: tar files that hold NAME.jpg and NAME.txt for each pair. The defaults are the paper's choice,
coca_ViT-L-14 from LAION-2B and one epoch, with the settings that open_clip publishes for fine-tuning CoCa. --pretrained takes
what coca.weights takes. Stage 2 loads the result, OUT/checkpoints/epoch_latest.pt, as --coca.weights. A run that was stopped
goes on after its last whole epoch.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import subprocess
import sys
import tarfile
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from open_clip_train.params import parse_args
from tqdm import tqdm

from pseudo_ris.checkpoints.weights import find_weights
from pseudo_ris.config import CocaConfig
from pseudo_ris.errors import UserError

TRAINING = "open_clip_train.main"
# The paper's weights and epochs; the rest is open_clip's recipe (its README, "Fine Tuning CoCa"), with a batch a GPU. Without
# contrast only the captioning side learns. open_clip's default augmentation, a crop of at least 90% of the image, keeps objects
# in the picture, so it stays.
RECIPE = {
    "--model": "coca_ViT-L-14",
    "--pretrained": "coca_laion2b",
    "--epochs": "1",
    "--batch-size": "128",
    "--lr": "1e-5",
    "--wd": "0.1",
    "--warmup": "1000",
    "--coca-contrastive-loss-weight": "0",
    "--coca-caption-loss-weight": "1",
    "--log-every-n-steps": "100",
}
# With weight 0 the contrastive head gets no gradient, which stops DistributedDataParallel after the first step, and with
# --ddp-static-graph after the second. Gradients this much smaller than AdamW's epsilon move nothing.
ALMOST_NONE = "1e-12"
WORKERS = 3
# Renamed into place after each epoch, so always whole; epoch_1.pt, which open_clip writes beside it at the end, need not be.
CHECKPOINT = Path("checkpoints", "epoch_latest.pt")
REMOTE = re.compile(r"pipe:|\w+://")
TAIL = 15


def list_shards(pattern: str) -> list[str]:
    """Shards of a pattern as open_clip's training reads it: braces expand, `::` joins patterns.

    Raises UserError when a local one is missing, the braces are wrong, or webdataset is not installed.
    """
    try:
        from webdataset.shardlists import expand_urls
    except ImportError as error:
        raise UserError("webdataset is not installed; run: pip install -c constraints.txt -e '.[finetune]'") from error
    try:
        shards = list(expand_urls(pattern))
    except ValueError as error:
        raise UserError(f"{pattern}: not a pattern of shards ({error}); write it like 'cc3m/{{00000..00331}}.tar'") from error
    missing = [shard for shard in shards if not REMOTE.match(shard) and not Path(shard).is_file()]
    if missing:
        raise UserError(f"{missing[0]}: no such shard ({len(missing)} of {len(shards)} are missing); give tar files of pairs")
    return shards


def count_pairs(pattern: str, shards: Sequence[str]) -> int:
    """Number of pairs: from sizes.json or __len__ beside the shards, else the .txt files in them are counted.

    Raises UserError when a shard is no tar file or not local, or when there are no pairs.
    """
    from open_clip_train.data import get_dataset_size

    try:
        pairs, _ = get_dataset_size(pattern)
    except (KeyError, ValueError, SyntaxError) as error:
        raise UserError(
            f"{Path(shards[0]).parent}: sizes.json or __len__ does not fit the shards ({error}); remove it"
        ) from error
    if pairs is None:
        pairs = sum(_pairs_in(shard) for shard in tqdm(shards, desc="counting pairs", disable=len(shards) == 1))
    if not pairs:
        raise UserError(f"{pattern}: no pairs; each needs NAME.jpg and NAME.txt")
    return pairs


def _pairs_in(shard: str) -> int:
    if REMOTE.match(shard):
        raise UserError(f"{shard}: not a local file, so its pairs cannot be counted; give --train-num-samples")
    try:
        with tarfile.open(shard) as archive:
            return sum(member.name.endswith(".txt") for member in archive)
    except (tarfile.TarError, OSError) as error:
        raise UserError(f"{shard}: not a tar file ({error}); make or download it again") from error


def training_arguments(pattern: str, out: Path, options: Sequence[str], gpus: int) -> list[str]:
    """Arguments of open_clip's training: the recipe, then `options`, which win, then what both leave open.

    out: absolute. gpus: how many there are; 0 trains on the CPU. Raises UserError when options, shards or weights are wrong.
    """
    shards = list_shards(pattern)
    processes = max(1, gpus)
    if len(shards) < processes:
        raise UserError(f"{pattern}: {len(shards)} shards for {gpus} GPUs; split them, or set CUDA_VISIBLE_DEVICES")
    arguments = [part for setting in RECIPE.items() for part in setting]
    arguments += ["--train-data", pattern, "--dataset-type", "webdataset", "--logs", str(out.parent), "--name", out.name]
    arguments += ["--workers", str(min(WORKERS, len(shards) // processes)), "--precision", "amp_bf16" if gpus else "fp32"]
    arguments += ["--save-most-recent", "--save-frequency", "0", "--resume", "latest"]
    if gpus > 1:
        arguments += ["--coca-contrastive-loss-weight", ALMOST_NONE]
    arguments += options
    settings = read_settings(arguments)
    if "coca" not in settings.model.lower():
        raise UserError(f"--model {settings.model}: open_clip trains a model as CoCa only when its name contains coca")
    if settings.workers * processes > len(shards):
        raise UserError(f"--workers {settings.workers}: each worker of each GPU needs a shard, and there are {len(shards)}")
    if settings.pretrained and ":" not in settings.model:  # local-dir:FOLDER brings its own weights
        config = CocaConfig(architecture=settings.model, weights=settings.pretrained)
        arguments += ["--pretrained", str(find_weights(config, "coca").resolve())]
    if settings.train_num_samples is None:
        arguments += ["--train-num-samples", str(count_pairs(pattern, shards))]
    return arguments


def read_settings(arguments: Sequence[str]) -> argparse.Namespace:
    """What open_clip's training makes of its arguments. Raises UserError with its complaint."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return parse_args(list(arguments))
    except SystemExit as stopped:
        if not stopped.code:
            raise
        raise UserError(complaint.getvalue().strip().rpartition("error: ")[2] + f" (an option of {TRAINING})") from stopped


def training_command(gpus: int) -> list[str]:
    """The training module as a command, in one process for each GPU."""
    if gpus > 1:
        return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={gpus}", "-m", TRAINING]
    return [sys.executable, "-m", TRAINING]


def run_training(command: Sequence[str], log: Path) -> None:
    """Runs the training and shows its progress lines.

    log: where it writes everything itself. Raises UserError when it fails, after its last lines, which hold the reason.
    """
    tail: deque[str] = deque(maxlen=TAIL)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace") as process:
        for line in process.stdout or ():
            tail.append(line)
            if "Train Epoch" in line:
                print(line, end="", flush=True)
    if process.returncode:
        sys.stderr.writelines(tail)
        raise UserError(f"{TRAINING} failed (exit code {process.returncode}), its last lines are above, more is in {log}")
