"""Fine-tunes CoCa on image-caption pairs with open_clip's training module (`pseudo-ris lab finetune`)."""

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

from pseudo_ris.checkpoints.weights import find_weights
from pseudo_ris.config import CocaConfig
from pseudo_ris.errors import UserError
from pseudo_ris.io.terminal import progress

TRAINING = "open_clip_train.main"
# The paper's weights and epochs; the rest is open_clip's recipe (its README, "Fine Tuning CoCa"), with one batch per GPU. The
# contrastive loss is off, so only captioning is trained. open_clip's default augmentation crops at least 90% of the image,
# which keeps the objects visible.
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
# With weight 0 the contrastive head gets no gradient; DistributedDataParallel then fails after the first step (after the second
# with --ddp-static-graph). Gradients this far below AdamW's epsilon change nothing.
ALMOST_NONE = "1e-12"
WORKERS = 3
# open_clip renames this file into place after each epoch, so it is always complete; its epoch_1.pt may not be.
CHECKPOINT = Path("checkpoints", "epoch_latest.pt")
REMOTE = re.compile(r"pipe:|\w+://")
TAIL = 15


def list_shards(pattern: str) -> list[str]:
    """Expands a pattern of shards as open_clip does: with braces, and `::` between patterns.

    Raises UserError when a local shard is missing, the braces are invalid, or webdataset is not installed.
    """
    try:
        from webdataset.shardlists import expand_urls
    except ImportError as error:
        raise UserError("webdataset is not installed; run: pip install -c constraints.txt -e '.[finetune]'") from error
    try:
        shards = list(expand_urls(pattern))
    except ValueError as error:
        raise UserError(f"{pattern}: invalid pattern of shards ({error}); write it like 'cc3m/{{00000..00331}}.tar'") from error
    missing = [shard for shard in shards if not REMOTE.match(shard) and not Path(shard).is_file()]
    if missing:
        raise UserError(f"{missing[0]}: no such shard ({len(missing)} of {len(shards)} are missing); give tar files of pairs")
    return shards


def count_pairs(pattern: str, shards: Sequence[str]) -> int:
    """Returns the number of pairs from sizes.json or __len__ beside the shards, or else by counting the .txt files in them.

    Raises UserError when a shard is not a local tar file or there are no pairs.
    """
    from open_clip_train.data import get_dataset_size

    try:
        pairs, _ = get_dataset_size(pattern)
    except (KeyError, ValueError, SyntaxError) as error:
        raise UserError(
            f"{Path(shards[0]).parent}: sizes.json or __len__ does not match the shards ({error}); remove it"
        ) from error
    if pairs is None:
        pairs = sum(_pairs_in(shard) for shard in progress(shards, "counting pairs", len(shards)))
    if not pairs:
        raise UserError(f"{pattern}: no pairs; a pair is NAME.jpg and NAME.txt")
    return pairs


def _pairs_in(shard: str) -> int:
    if REMOTE.match(shard):
        raise UserError(f"{shard}: not a local file, so its pairs cannot be counted; give --train-num-samples")
    try:
        with tarfile.open(shard) as archive:
            return sum(member.name.endswith(".txt") for member in archive)
    except (tarfile.TarError, OSError) as error:
        raise UserError(f"{shard}: not a tar file ({error}); create or download it again") from error


def training_arguments(pattern: str, out: Path, options: Sequence[str], gpus: int) -> list[str]:
    """Returns the arguments of open_clip's training: the recipe, `options` (which override it), and derived settings.

    out: absolute path. gpus: number of GPUs; 0 trains on the CPU. Raises UserError when options, shards or weights are invalid.
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
        raise UserError(f"--model {settings.model}: open_clip trains a model as CoCa only if its name contains coca; rename it")
    if settings.workers * processes > len(shards):
        raise UserError(f"--workers {settings.workers}: needs a shard per worker and GPU, but has {len(shards)}; use fewer")
    if settings.pretrained and ":" not in settings.model:  # local-dir:FOLDER brings its own weights
        config = CocaConfig(architecture=settings.model, weights=settings.pretrained)
        arguments += ["--pretrained", str(find_weights(config, "coca").resolve())]
    if settings.train_num_samples is None:
        arguments += ["--train-num-samples", str(count_pairs(pattern, shards))]
    return arguments


def read_settings(arguments: Sequence[str]) -> argparse.Namespace:
    """Parses arguments as open_clip's training does. Raises UserError with its error message."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return parse_args(list(arguments))
    except SystemExit as stopped:
        if not stopped.code:
            raise
        raise UserError(complaint.getvalue().strip().rpartition("error: ")[2] + f" (an option of {TRAINING})") from stopped


def training_command(gpus: int) -> list[str]:
    """Returns the command of the training module, with one process per GPU."""
    if gpus > 1:
        return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={gpus}", "-m", TRAINING]
    return [sys.executable, "-m", TRAINING]


def run_training(command: Sequence[str], log: Path) -> None:
    """Runs the training and prints its progress lines. log: the log file that the training writes.

    Raises UserError when it fails, after printing its last lines, which contain the reason.
    """
    tail: deque[str] = deque(maxlen=TAIL)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace") as process:
        for line in process.stdout or ():
            tail.append(line)
            if "Train Epoch" in line:
                print(line, end="", flush=True)
    if process.returncode:
        sys.stderr.writelines(tail)
        raise UserError(f"{TRAINING} failed with exit code {process.returncode}; see its last lines above and {log}")
