"""Trains RIS models on pseudo pairs and on the ground truth, and compares them (`pseudo-ris lab weakly-supervised`)."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pseudo_ris.errors import UserError
from pseudo_ris.io.machine import core_count
from pseudo_ris.lab.output import format_table
from pseudo_ris.lab.refer_world import DATASET
from pseudo_ris.ris.config import DataConfig, TrainConfig
from pseudo_ris.ris.data.splits import split_targets
from pseudo_ris.ris.data.targets import Target, by_image
from pseudo_ris.ris.evaluation.scores import Results, tally, tally_masks
from pseudo_ris.ris.models.build import build_model
from pseudo_ris.ris.models.checkpoints import BEST, load_model
from pseudo_ris.ris.training.distributed import Processes
from pseudo_ris.ris.training.feature_cache import FeatureCache
from pseudo_ris.stages.pipeline import Pipeline
from pseudo_ris.stages.settings import parse_config
from pseudo_ris.stages.zero_shot import ZeroShot
from pseudo_ris.world.scene_set import map_in_processes

CONFIG = "ris_sam_demo"
COMMAND = ("-m", "pseudo_ris.cli")
PAIRS = "distinctive_captions_cc3m.csv"
PLACES = ("--places.attributes=true", "--places.forms", "position", "superlative", "corner", "ordinal")
MORE = "--top-k=6"
"""More place words than stage 2 writes and the presets keep by default: students need many of each kind, and tolerate some that
are not distinctive. The first forms win where there are too many."""
TEST_SPLITS = ("testA", "testB")
KINDS = ("attribute", "position")
WARMUP_SHARE = 15
"""Training steps per warm-up step."""
EVERYTHING = 0.0
"""A DoC threshold that every expression passes: the pairs are selected already."""


@dataclass(frozen=True)
class Row:
    """A line of the table.

    judge: of a model without training, see ZeroShot; "": a trained one. preset: that selects the pairs; "": no pairs.
    fraction: share of the training images whose ground truth is used.
    """

    name: str
    judge: str = ""
    preset: str = ""
    fraction: float = 0.0

    @property
    def stem(self) -> str:
        """What the folders of its models begin with."""
        mixed = self.fraction > 0 and (self.preset or self.fraction < 1)
        return (self.preset or "ground_truth") + (f"_{self.fraction:g}" if mixed else "")

    def options(self, out: Path) -> list[str]:
        """Options of `pseudo-ris train` for this row. The set's validation split always chooses the checkpoint."""
        options = [f"--data.fraction={self.fraction:g}"]
        if self.preset:
            options += [f"--data.pairs={selected(out, self.preset)}", f"--data.pair_masks={out / 'masks'}"]
            options += [f"--data.pair_images={out / 'world' / 'images' / 'train'}", f"--data.threshold={EVERYTHING}"]
        return options


ZERO_SHOT, LISTENER = Row("zero-shot, CLIP", judge="clip"), Row("zero-shot, listener", judge="listener")
PAPER, RECOMMENDED = Row("paper's pairs", preset="paper"), Row("recommended pairs", preset="recommended")
GROUND_TRUTH = Row("ground truth", fraction=1.0)
ROWS = (ZERO_SHOT, LISTENER, PAPER, RECOMMENDED, GROUND_TRUTH)
NAMED = {"zero_shot": ZERO_SHOT, "paper": PAPER, "pseudo": RECOMMENDED, "ground_truth": GROUND_TRUTH}
"""What rows are called in the command's last line."""


def rows_of(percents: Sequence[float]) -> list[Row]:
    """The rows of a semi-supervised comparison: each share of the ground truth, alone and with the recommended pairs.

    percents: of the training images, above 0 and up to 100. Raises UserError for another.
    """
    rows = []
    for percent in percents:
        if not 0 < percent <= 100:
            raise UserError(f"--semi {percent:g}: must be above 0 and up to 100, a share of the training images in percent")
        alone = GROUND_TRUTH if percent == 100 else Row(f"{percent:g}% ground truth", fraction=percent / 100)
        rows += [alone, Row(f"{percent:g}% ground truth and recommended pairs", preset="recommended", fraction=percent / 100)]
    return rows


def selected(out: Path, preset: str) -> Path:
    """The pairs that a preset keeps."""
    return out / preset / PAIRS


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
            started = [pool.submit(self._run, job, log / f"{number}.log") for number, job in enumerate(jobs)]
            try:
                for each in started:
                    each.result()
            except BaseException:  # also Ctrl-C: commands that have not started must not start
                pool.shutdown(wait=False, cancel_futures=True)
                raise

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
    """Runs both stages on the training images, and selects pairs by each row's preset. Raises UserError."""
    common = ["--config=demo", f"--images={out / 'world' / 'images' / 'train'}", f"--masks={out / 'masks'}"]
    if machine.workers > 1:
        common += ["--engine=local", f"--workers={machine.workers}"]
    machine.run([[*COMMAND, "masks", *common]], out / "logs" / "masks")
    machine.run([[*COMMAND, "pairs", *common, f"--output={out / 'pairs'}", *PLACES]], out / "logs" / "pairs")
    jobs = [
        [*COMMAND, "select", f"--pairs={out / 'pairs' / PAIRS}", f"--output={selected(out, preset)}", f"--preset={preset}"]
        + ([MORE] if preset == RECOMMENDED.preset else [])
        for preset in (row.preset for row in ROWS)
        if preset and not selected(out, preset).exists()
    ]
    machine.run(jobs, out / "logs" / "select")


def make_features(out: Path, machine: Machine) -> None:
    """Computes the frozen image features of the training images once, before several trainings read them."""
    parts = range(machine.workers)
    start = partial(torch.set_num_threads, machine.threads)
    list(map_in_processes(partial(_fill_part, out, machine.workers), list(parts), machine.workers, start=start))


def _fill_part(out: Path, parts: int, part: int) -> None:
    """Every parts-th training image from the part-th on."""
    config = parse_config(TrainConfig, [f"--config={CONFIG}"])
    targets = split_targets(_world(out), "train")
    own = [targets[places[0]] for places in by_image(targets)][part::parts]
    FeatureCache(out / "features", build_model(config.model, 0)).fill(own, Processes(0, 1, torch.device("cpu")))


def _world(out: Path) -> DataConfig:
    return DataConfig(dataset=DATASET, refer_root=str(out / "world"), images=str(out / "world" / "images"))


def train_all(out: Path, rows: Sequence[Row], options: argparse.Namespace, machine: Machine) -> None:
    """Trains a model for each row that has one and each seed. Raises UserError."""
    world = _world(out)
    data = {"dataset": world.dataset, "refer_root": world.refer_root, "images": world.images, "features": out / "features"}
    common = [*COMMAND, "train", f"--config={CONFIG}", *(f"--data.{name}={value}" for name, value in data.items())]
    common += [f"--schedule.steps={options.steps}", f"--schedule.warmup={options.steps // WARMUP_SHARE}"]
    jobs = [
        [*common, *row.options(out), f"--seed={seed}", f"--output={_folder(out, row, seed)}"]
        for seed in options.seeds
        for row in rows
        if not row.judge
    ]
    # All run at the same time: two at a time would leave a core idle during the third. Each takes one thread and 1 GiB.
    together = machine if machine.workers == 1 else replace(machine, workers=max(machine.workers, len(jobs)))
    together.run(jobs, out / "logs" / "training")


def _folder(out: Path, row: Row, seed: int) -> Path:
    return out / "models" / f"{row.stem}_{seed}"


def measure_all(out: Path, rows: Sequence[Row], seeds: Sequence[int], machine: Machine) -> dict[str, list[Results]]:
    """Measures the models of each row, one per seed or one without training, on the test scenes. Raises UserError."""
    jobs = [(row, seed) for row in rows for seed in (seeds[:1] if row.judge else seeds)]
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
    targets: list[Target] = [target for split in TEST_SPLITS for target in split_targets(_world(out), split)]
    if row.judge:
        segmenter = ZeroShot(Pipeline.from_preset("demo", device="cpu"), row.judge)
        return Results.of(tally_masks(segmenter.segment, targets))
    model, _ = load_model(_folder(out, row, seed) / BEST, device)
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


def last_line(rows: dict[str, dict[str, float]], minutes: float, seeds: Sequence[int]) -> dict[str, Any]:
    """The figures of the rows in NAMED, and all rows."""
    figures: dict[str, Any] = {}
    for figure in ("oiou", "miou", *(f"miou_{kind}" for kind in KINDS)):
        figures |= {f"{figure}_{name}": rows[row.name][figure] for name, row in NAMED.items() if row.name in rows}
    return {**figures, "minutes": minutes, "seeds": list(seeds), "rows": rows}


def print_table(rows: dict[str, dict[str, float]]) -> None:
    """Prints the summary as a table."""
    columns = {"oiou": "oIoU", "miou": "mIoU"} | {f"miou_{kind}": f"mIoU, {kind} words" for kind in KINDS}
    cells = [(name, *(_cell(of[key], of.get(f"{key}_deviation")) for key in columns)) for name, of in rows.items()]
    print(format_table(("model", *columns.values()), cells))


def _cell(mean: float, deviation: float | None) -> str:
    return f"{mean:.3f}" + (f" ± {deviation:.3f}" if deviation is not None else "")
