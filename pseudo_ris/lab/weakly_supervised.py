"""Trains RIS models on pseudo pairs and on the ground truth, and compares them (`pseudo-ris lab weakly-supervised`)."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pseudo_ris.errors import UserError
from pseudo_ris.io.machine import core_count
from pseudo_ris.lab.output import format_table
from pseudo_ris.lab.refer_world import DATASET
from pseudo_ris.ris.config import DataConfig
from pseudo_ris.ris.data.splits import split_targets
from pseudo_ris.ris.evaluation.scores import Results, tally
from pseudo_ris.ris.models.checkpoints import BEST, load_model
from pseudo_ris.world.scene_set import map_in_processes

CONFIG = "ris_demo"
COMMAND = ("-m", "pseudo_ris.cli")
PAIRS = "distinctive_captions_cc3m.csv"
TEST_SPLITS = ("testA", "testB")
KINDS = ("attribute", "position")
WARMUP_SHARE = 20
"""Training steps per warm-up step."""
EVERYTHING = 0.0
"""A DoC threshold that every expression passes."""
GROUND_TRUTH, BOTH = "ground truth", "pseudo pairs, calibrated and filtered"


@dataclass(frozen=True)
class Row:
    """One way to train. pairs: folder of stage 2's results; "": ground truth. filtered: apply the demo's DoC threshold."""

    name: str
    pairs: str = ""
    filtered: bool = False
    masking: bool = False

    def options(self, out: Path) -> list[str]:
        """Options of `pseudo-ris train` for this row."""
        options = [f"--masking.{part}={str(self.masking).lower()}" for part in ("image", "text")]
        if not self.pairs:
            return options
        masks, images = out / "masks", out / "world" / "images" / "train"
        options += [f"--data.pairs={out / self.pairs / PAIRS}", f"--data.pair_masks={masks}", f"--data.pair_images={images}"]
        options += ["--data.fraction=0"]  # use only the validation split of the set, to monitor training
        return options if self.filtered else [*options, f"--data.threshold={EVERYTHING}"]


ROWS = (
    Row(GROUND_TRUTH),
    Row("pseudo pairs, neither calibrated nor filtered", "plain"),
    Row("pseudo pairs, calibrated", "calibrated"),
    Row("pseudo pairs, filtered", "plain", filtered=True),
    Row(BOTH, "calibrated", filtered=True),
    Row(BOTH + ", with MaskRIS", "calibrated", filtered=True, masking=True),
)


@dataclass(frozen=True)
class Machine:
    """Runs commands, `workers` at a time, and divides the cores among them."""

    workers: int

    @property
    def threads(self) -> int:
        """Cores per worker."""
        return max(1, core_count() // self.workers)

    def run(self, jobs: Sequence[Sequence[str]], log: Path) -> None:
        """Runs Python with each list of arguments. log: folder of the logs.

        Raises UserError with the last line of a failed one.
        """
        with ThreadPoolExecutor(self.workers) as pool:
            for ended in [pool.submit(self._run, job, log / f"{number}.log") for number, job in enumerate(jobs)]:
                ended.result()

    def _run(self, job: Sequence[str], log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w", encoding="utf-8") as file:
            environment = os.environ | {"OMP_NUM_THREADS": str(self.threads)}
            code = subprocess.run([sys.executable, *job], env=environment, stdout=file, stderr=subprocess.STDOUT).returncode
        if code:
            raise UserError(
                f"{log}: ended with exit code {code}: {_last_line(log)}; fix the cause and run the same command again"
            )


def _last_line(log: Path) -> str:
    return (log.read_text(encoding="utf-8").strip().splitlines() or ["no output"])[-1]


def draw_world(out: Path, options: argparse.Namespace, machine: Machine) -> None:
    """Draws the REFER set unless it exists. Raises UserError."""
    world = out / "world"
    if not world.exists():
        sizes = [f"--{split}={getattr(options, split)}" for split in ("train", "val", "test")]
        machine.run(
            [[*COMMAND, "lab", "refer-world", f"--out={world}", f"--seed={options.world_seed}", *sizes]],
            out / "logs" / "world",
        )


def make_pairs(out: Path, machine: Machine) -> None:
    """Runs stage 1, and stage 2 with and without calibrated sampling, on the training images. Raises UserError."""
    common = ["--config=demo", f"--images={out / 'world' / 'images' / 'train'}", f"--masks={out / 'masks'}"]
    if machine.workers > 1:
        common += ["--engine=local", f"--workers={machine.workers}"]
    machine.run([[*COMMAND, "masks", *common]], out / "logs" / "masks")
    for name, calibration in (("calibrated", "mean"), ("plain", "none")):
        own = [f"--output={out / name}", f"--decoding.calibration={calibration}"]
        machine.run([[*COMMAND, "pairs", *common, *own]], out / "logs" / name)


def train_all(out: Path, rows: Sequence[Row], options: argparse.Namespace, machine: Machine) -> None:
    """Trains a model for each row and seed, starting with the slowest. Raises UserError."""
    world = [f"--data.dataset={DATASET}", f"--data.refer_root={out / 'world'}", f"--data.images={out / 'world' / 'images'}"]
    common = [*COMMAND, "train", f"--config={CONFIG}", *world]
    common += [f"--schedule.steps={options.steps}", f"--schedule.warmup={options.steps // WARMUP_SHARE}"]
    jobs = [
        [*common, *row.options(out), f"--seed={seed}", f"--output={_folder(out, row, seed)}"]
        for seed in options.seeds
        for row in sorted(rows, key=lambda row: not row.masking)
    ]
    machine.run(jobs, out / "logs" / "training")


def _folder(out: Path, row: Row, seed: int) -> Path:
    name = "_".join(word for word in row.name.replace(",", "").split() if word not in ("pseudo", "pairs"))
    return out / "models" / f"{name}_{seed}"


def measure_all(out: Path, rows: Sequence[Row], seeds: Sequence[int], machine: Machine) -> dict[str, list[Results]]:
    """Measures the models of each row, one per seed, on the test scenes. Raises UserError."""
    jobs = [(row, seed) for row in rows for seed in seeds]
    start = partial(torch.set_num_threads, machine.threads)
    measured: dict[str, list[Results]] = {row.name: [] for row in rows}
    found = map_in_processes(partial(measure, out), jobs, machine.workers, start=start)
    for (row, _), results in zip(jobs, found, strict=True):
        measured[row.name].append(results)
    return measured


def measure(out: Path, job: tuple[Row, int]) -> Results:
    """Measures the model of a row and seed on the test scenes."""
    row, seed = job
    device = torch.device("cpu")
    world = out / "world"
    data = DataConfig(dataset=DATASET, refer_root=str(world), images=str(world / "images"))
    model, _ = load_model(_folder(out, row, seed) / BEST, device)
    targets = [target for split in TEST_SPLITS for target in split_targets(data, split)]
    return Results.of(tally(model, targets, batch_size=16, precision="fp32", device=device))


def summary(results: dict[str, list[Results]]) -> dict[str, Any]:
    """Returns the figures of each row at the original image size: mean and, with several seeds, sample standard deviation."""
    rows = {}
    for name, found in results.items():
        figures = {"oiou": [each.original.oiou for each in found], "miou": [each.original.miou for each in found]}
        for kind in KINDS:
            figures[f"miou_{kind}"] = [each.by_tag[kind].original.miou for each in found]
        rows[name] = {key: statistics.fmean(values) for key, values in figures.items()}
        if len(found) > 1:
            rows[name] |= {f"{key}_deviation": statistics.stdev(values) for key, values in figures.items()}
    return rows


def print_table(rows: dict[str, dict[str, float]]) -> None:
    """Prints the summary as a table."""
    columns = {"oiou": "oIoU", "miou": "mIoU"} | {f"miou_{kind}": f"mIoU, {kind} words" for kind in KINDS}
    cells = [(name, *(_cell(of[key], of.get(f"{key}_deviation")) for key in columns)) for name, of in rows.items()]
    print(format_table(("trained on", *columns.values()), cells))


def _cell(mean: float, deviation: float | None) -> str:
    return f"{mean:.3f}" + (f" ± {deviation:.3f}" if deviation is not None else "")
