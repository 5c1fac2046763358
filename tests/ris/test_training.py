"""Trainings of the small CLIP model on a few drawn scenes: stopped, killed, gone on with, shared by processes."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pairs_csv import write_pairs
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_model import TinyModel, tiny_targets

from pseudo_ris.demo.refer_world import main as draw_refer_world
from pseudo_ris.errors import UserError
from pseudo_ris.ris.batches import Batches
from pseudo_ris.ris.checkpoints import load_model, read_checkpoint
from pseudo_ris.ris.config import DataConfig, MaskingConfig, ModelConfig, ScheduleConfig, TrainConfig
from pseudo_ris.ris.data import split_targets
from pseudo_ris.ris.learner import Learner
from pseudo_ris.ris.processes import Processes, StopRequest
from pseudo_ris.ris.training import Training, train

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "train_ris" / "train.py"
CPU = torch.device("cpu")
STEPS = 12


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("refer") / "world"
    draw_refer_world(["--out", str(out), "--train", "6", "--val", "1", "--test", "1", "--seed", "3"])
    return out


@pytest.fixture
def config(world, tmp_path) -> TrainConfig:
    """Everything that draws random numbers is on."""
    torch.set_num_threads(1)
    return TrainConfig(
        output=str(tmp_path / "run"),
        model=ModelConfig(input_size=32),
        masking=MaskingConfig(image=True, text=True, patch=16),
        data=DataConfig(dataset="drawn", refer_root=str(world), images=str(world / "images")),
        schedule=ScheduleConfig(warmup=2, batch_size=4, steps=STEPS, learning_rate=3e-4),
        ema=0.9,
        validate_every=5,
        workers=0,
        device="cpu",
    )


def options(config: TrainConfig) -> list[str]:
    """The command line of the fixture's settings."""
    data, schedule = config.data, config.schedule
    return [
        *("--output", config.output, "--model.name", config.model.name, "--model.size", config.model.size),
        *("--model.image_weights", config.model.image_weights, "--model.input_size", str(config.model.input_size)),
        *("--masking.image", "--masking.text", "--masking.patch", "16"),
        *("--data.dataset", data.dataset, "--data.refer_root", data.refer_root, "--data.images", data.images),
        *("--schedule.warmup", "2", "--schedule.batch_size", "4", "--schedule.steps", str(schedule.steps)),
        *("--schedule.learning_rate", str(schedule.learning_rate), "--ema", "0.9"),
        *("--validate_every", str(config.validate_every), "--workers", str(config.workers), "--device", "cpu"),
        *("--precision", config.precision),
    ]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def log_of(config: TrainConfig) -> list[str]:
    path = Path(config.output) / "log.csv"
    return path.read_text().splitlines()[1:] if path.exists() else []


def losses_of(config: TrainConfig) -> list[float]:
    with (Path(config.output) / "log.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def points(config: TrainConfig, name: str) -> Counter[int]:
    """How often TensorBoard shows each step of a curve."""
    events = EventAccumulator(str(Path(config.output) / "tensorboard"))
    events.Reload()
    return Counter(event.step for event in events.Scalars(name))


def send_when_logged(number: int, config: TrainConfig, lines: int) -> threading.Thread:
    """Sends this process a signal as soon as that many steps are logged."""

    def watch() -> None:
        while len(log_of(config)) < lines:
            time.sleep(0.002)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


@pytest.mark.slow
def test_a_stopped_training_goes_on_with_the_same_log(config, tmp_path, capsys):
    whole = replace(config, output=str(tmp_path / "whole"))
    assert train(whole) == 0

    watcher = send_when_logged(signal.SIGTERM, config, 3)
    assert train(config) == 128 + signal.SIGTERM
    watcher.join()
    done = read_checkpoint(Path(config.output) / "last.pt")["step"]
    assert 3 <= done < STEPS
    assert len(log_of(config)) == done
    assert f"stopped after step {done} of {STEPS}; the same command goes on from there" in capsys.readouterr().out

    with (Path(config.output) / "log.csv").open("a") as file:
        file.write(f"{done + 1},0.5,0.1,1.0\n{done + 2}")  # what a kill in the middle of writing leaves
    assert train(config) == 0
    assert f"going on after step {done}" in capsys.readouterr().out
    assert log_of(config) == log_of(whole)
    assert points(config, "train/loss") == points(whole, "train/loss") == Counter(range(1, STEPS + 1))
    assert points(config, "val/oIoU_model_size") == Counter([5, 10, 12])

    for name in ("best.pt", "last.pt"):
        states = [load_model(Path(run.output) / name, CPU)[0].state_dict() for run in (config, whole)]
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    before = log_of(config)
    assert train(config) == 0
    assert f"all {STEPS} steps are done; give another --output" in capsys.readouterr().out
    assert log_of(config) == before


@pytest.mark.slow
def test_best_is_the_checkpoint_with_the_highest_oiou(config, capsys):
    train(config)
    best = read_checkpoint(Path(config.output) / "best.pt")
    events = EventAccumulator(str(Path(config.output) / "tensorboard"))
    events.Reload()
    figures = {event.step: event.value for event in events.Scalars("val/oIoU_model_size")}
    assert figures[best["step"]] == pytest.approx(max(figures.values()))
    assert best["best"]["model_size"]["oIoU"] == pytest.approx(max(figures.values()))
    assert f"oIoU {best['best']['model_size']['oIoU']:.3f}" in capsys.readouterr().out
    assert events.Images("prediction/0")


@pytest.mark.slow
def test_with_pseudo_pairs_alone_the_set_s_validation_split_chooses_the_best(config, world, tmp_path):
    pairs = replace(config.data, fraction=0.0, **write_pairs(tmp_path / "pseudo", *[[2.0]] * 4))
    config = replace(config, data=pairs, schedule=replace(config.schedule, steps=3), validate_every=3)
    assert train(config) == 0
    best = read_checkpoint(Path(config.output) / "best.pt")["best"]
    validated = split_targets(pairs, "val")
    assert best["model_size"]["count"] == sum(len(target.sentences) for target in validated) > 0


def test_other_settings_and_a_damaged_checkpoint_are_refused_and_nothing_is_touched(config):
    short = replace(config, data=replace(config.data, val_split=""), schedule=replace(config.schedule, steps=3))
    train(short)
    last = Path(config.output) / "last.pt"
    data = last.read_bytes()
    with pytest.raises(UserError, match=r"--seed 1: .*last\.pt was trained with 0"):
        train(replace(short, seed=1))
    assert last.read_bytes() == data
    last.write_bytes(data[:1000])
    with pytest.raises(UserError, match=r"last\.pt: not a readable checkpoint"):
        train(short)
    assert last.read_bytes() == data[:1000]


@pytest.mark.slow
def test_bf16_trains_and_validates(config):
    assert train(replace(config, precision="bf16", schedule=replace(config.schedule, steps=4))) == 0
    assert all(0 < loss < 20 for loss in losses_of(config))


def test_a_loss_that_is_not_finite_names_the_sample_and_leaves_the_checkpoint(tmp_path):
    config = TrainConfig(
        output=str(tmp_path), schedule=ScheduleConfig(batch_size=3, warmup=0), workers=0, validate_every=1, device="cpu"
    )
    processes, model = Processes(0, 1, CPU), TinyModel()
    targets = tiny_targets(12, white=7)
    batches = Batches(targets, model, config, processes)
    order = [index for batch in batches.order for index in batch]
    poisoned = order.index(7) // 3  # steps before the one with the white picture
    assert poisoned > 0, "the seed must not put it first"
    learner = Learner(model, config, 4, processes)
    with pytest.raises(UserError) as caught:
        Training(config, learner, batches, [], 4).go_on(StopRequest())
    message = str(caught.value)
    assert message.startswith(f"step {poisoned + 1}: loss nan, gradient norm ")
    assert ", with sample 7 (7.png); " in message
    assert f"{tmp_path / 'last.pt'} stays as it was; lower --schedule.learning_rate" in message
    assert "\n" not in message
    saved = read_checkpoint(tmp_path / "last.pt")
    assert saved["step"] == poisoned == len(log_of(config))
    assert all(value.isfinite().all() for value in saved["model"].values())
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.slow
def test_a_killed_training_goes_on_with_the_same_log(config, tmp_path):
    config = replace(config, workers=1)
    whole = replace(config, output=str(tmp_path / "whole"))
    command = [sys.executable, str(RECIPE)]
    assert subprocess.run([*command, *options(whole)], env=environment()).returncode == 0
    process = subprocess.Popen([*command, *options(config)], env=environment())
    while len(log_of(config)) < 8 and process.poll() is None:
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert read_checkpoint(Path(config.output) / "last.pt")["step"] == 5
    assert subprocess.run([*command, *options(config)], env=environment()).returncode == 0
    assert log_of(config) == log_of(whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [ModelConfig(input_size=32), ModelConfig("maskris", "tiny", image_weights="none", input_size=32)],
    ids=["clip", "maskris, which weighs its classes unequally"],
)
def test_two_processes_have_the_losses_and_figures_of_one(config, tmp_path, model):
    """Gloo on the CPU, with masking: the same to 5e-6. Weights normalised over a process's batch would differ by 2e-5."""
    schedule = replace(config.schedule, learning_rate=1e-4)
    one = replace(config, output=str(tmp_path / "one"), model=model, schedule=schedule, precision="fp32")
    two = replace(one, output=str(tmp_path / "two"))
    assert train(one) == 0
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    assert subprocess.run([*torchrun, str(RECIPE), *options(two)], env=environment()).returncode == 0
    assert losses_of(two) == pytest.approx(losses_of(one), abs=5e-6)
    assert len(losses_of(two)) == STEPS
    first, second = (read_checkpoint(Path(run.output) / "best.pt")["best"] for run in (one, two))
    assert second["model_size"]["count"] == first["model_size"]["count"] > 0
    assert second["model_size"]["mIoU"] == pytest.approx(first["model_size"]["mIoU"], abs=0.01)
