"""From drawn images without labels to a RIS model, beside one that was trained on the ground truth.

    pseudo-ris lab weakly-supervised --out demo_output/weakly_supervised --seeds 0 1 2

Draws a REFER set, runs stages 1 and 2 on its training images alone, trains a model on each kind of pairs and one on the ground
truth, and measures all on the test scenes. Each command that it runs can be run by hand and goes on where it was; so does this.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pseudo_ris.errors import UserError
from pseudo_ris.io.machine import core_count
from pseudo_ris.lab.refer_world import DATASET
from pseudo_ris.ris.config import DataConfig
from pseudo_ris.ris.data.splits import split_targets
from pseudo_ris.ris.evaluation.scores import Results, tally
from pseudo_ris.ris.models.checkpoints import BEST, load_model

CONFIG = "ris_demo"
COMMAND = ("-m", "pseudo_ris.cli")
PAIRS = "distinctive_captions_cc3m.csv"
TEST_SPLITS = ("testA", "testB")
KINDS = ("attribute", "position")
WARMUP_SHARE = 20
"""Steps of a training for each step of its warm-up."""
EVERYTHING = 0.0
"""A DoC threshold that every expression passes."""
GROUND_TRUTH, BOTH = "ground truth", "pseudo pairs, calibrated and filtered"


@dataclass(frozen=True)
class Row:
    """One way to train. pairs: which of stage 2's results, or none: the ground truth. filtered: by the demo's DoC threshold."""

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
        options += ["--data.fraction=0"]  # of the set only its validation split is used, to show how training goes
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
    """How commands run: `workers` at a time, each with its share of the cores."""

    workers: int

    @property
    def threads(self) -> int:
        """A worker's cores."""
        return max(1, core_count() // self.workers)

    def run(self, jobs: Sequence[Sequence[str]], log: Path) -> None:
        """Runs the commands (arguments of Python), `workers` at a time. Raises UserError with a failed one's last line."""
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
    """The REFER set, unless it is there. Raises UserError."""
    world = out / "world"
    if not world.exists():
        sizes = [f"--{split}={getattr(options, split)}" for split in ("train", "val", "test")]
        machine.run(
            [[*COMMAND, "lab", "refer-world", f"--out={world}", f"--seed={options.world_seed}", *sizes]],
            out / "logs" / "world",
        )


def make_pairs(out: Path, machine: Machine) -> None:
    """Stages 1 and 2 on the training images: masks, and pairs with and without calibrated sampling. Raises UserError."""
    common = ["--config=demo", f"--images={out / 'world' / 'images' / 'train'}", f"--masks={out / 'masks'}"]
    if machine.workers > 1:
        common += ["--engine=local", f"--workers={machine.workers}"]
    machine.run([[*COMMAND, "masks", *common]], out / "logs" / "masks")
    for name, calibration in (("calibrated", "mean"), ("plain", "none")):
        own = [f"--output={out / name}", f"--decoding.calibration={calibration}"]
        machine.run([[*COMMAND, "pairs", *common, *own]], out / "logs" / name)


def train_all(out: Path, rows: Sequence[Row], options: argparse.Namespace, machine: Machine) -> None:
    """A model of each row and seed; the longest trainings start first. Raises UserError."""
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
    """Each row's models on the test scenes, one of each seed. Raises UserError."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(machine.workers, context, torch.set_num_threads, (machine.threads,)) as pool:
        waiting = {row.name: [pool.submit(measure, out, row, seed) for seed in seeds] for row in rows}
        return {name: [each.result() for each in results] for name, results in waiting.items()}


def measure(out: Path, row: Row, seed: int) -> Results:
    """The trained model on the test scenes."""
    device = torch.device("cpu")
    world = out / "world"
    data = DataConfig(dataset=DATASET, refer_root=str(world), images=str(world / "images"))
    model, _ = load_model(_folder(out, row, seed) / BEST, device)
    targets = [target for split in TEST_SPLITS for target in split_targets(data, split)]
    return Results.of(tally(model, targets, batch_size=16, precision="fp32", device=device))


def summary(results: dict[str, list[Results]]) -> dict[str, Any]:
    """Figures of each row at original size: mean and, of several seeds, standard deviation (of the sample)."""
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
    """The summary as a table in Markdown."""
    columns = ["oiou", "miou", *(f"miou_{kind}" for kind in KINDS)]
    print(f"| trained on | oIoU | mIoU | {' | '.join(f'mIoU, {kind} words' for kind in KINDS)} |")
    print("|---" * (len(columns) + 1) + "|")
    for name, figures in rows.items():
        cells = [_cell(figures[column], figures.get(f"{column}_deviation")) for column in columns]
        print(f"| {name} | {' | '.join(cells)} |")


def _cell(mean: float, deviation: float | None) -> str:
    return f"{mean:.3f}" + (f" ± {deviation:.3f}" if deviation is not None else "")
