"""Trainings of the small CLIP model on a few drawn scenes: stopped, killed, gone on with, shared by processes."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pairs_csv import write_pairs
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_model import TinyModel, tiny_targets

from pseudo_ris.cli.lab.refer_world import main as draw_refer_world
from pseudo_ris.errors import UserError
from pseudo_ris.ris.config import DataConfig, MaskingConfig, ModelConfig, ScheduleConfig, TrainConfig
from pseudo_ris.ris.data.splits import split_targets
from pseudo_ris.ris.evaluation.scores import Results, tally
from pseudo_ris.ris.models.checkpoints import BEST, LAST, load_model, read_checkpoint
from pseudo_ris.ris.training import train as training
from pseudo_ris.ris.training.batches import Batches
from pseudo_ris.ris.training.distributed import Processes
from pseudo_ris.ris.training.learner import Learner
from pseudo_ris.ris.training.train import Training, train
from pseudo_ris.runtime.shares import ALL, working_in
from pseudo_ris.runtime.stopping import StopRequest

ROOT = Path(__file__).parents[3]
RECIPE = ROOT / "train_ris" / "train.py"
MANY = ROOT / "tests" / "helpers" / "train_many.py"
CPU = torch.device("cpu")
STEPS, SAVED_AT = 8, [3, 6, 8]
KILLED_AFTER = 5


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("refer") / "world"
    draw_refer_world(["--out", str(out), "--train", "6", "--val", "1", "--test", "1", "--seed", "3"])
    return out


@pytest.fixture(scope="module")
def settings(world) -> TrainConfig:
    """Everything that draws random numbers is on."""
    return TrainConfig(
        model=ModelConfig(input_size=32),
        masking=MaskingConfig(image=True, text=True, patch=16),
        data=DataConfig(dataset="drawn", refer_root=str(world), images=str(world / "images")),
        schedule=ScheduleConfig(warmup=2, batch_size=4, steps=STEPS, learning_rate=3e-4),
        precision="fp32",
        ema=0.9,
        validate_every=3,
        workers=0,
        device="cpu",
    )


@pytest.fixture(autouse=True)
def one_thread():
    """The last bits of a loss depend on the number of threads."""
    torch.set_num_threads(1)


@pytest.fixture
def config(settings, tmp_path) -> TrainConfig:
    return replace(settings, output=str(tmp_path / "run"))


@pytest.fixture(scope="module")
def whole(settings, tmp_path_factory) -> TrainConfig:
    """A training that nothing interrupted; not to be written to."""
    torch.set_num_threads(1)
    done = replace(settings, output=str(tmp_path_factory.mktemp("whole")))
    assert train(done) == 0
    return done


@pytest.fixture(scope="module")
def killed(settings, tmp_path_factory) -> TrainConfig:
    """A training that was killed after step KILLED_AFTER, with a checkpoint of step 3; not to be written to."""
    config = replace(settings, output=str(tmp_path_factory.mktemp("killed")), workers=1)
    ended = subprocess.run([sys.executable, "-c", KILLED, *options(config)], env=environment())
    assert ended.returncode == -signal.SIGKILL
    return config


KILLED = f"""
import os, signal, sys
from pseudo_ris.ris.training.training_log import TrainingLog
from train_ris.train import main

log_step = TrainingLog.step

def killed(log, number, *figures):
    log_step(log, number, *figures)
    if number == {KILLED_AFTER}:
        os.kill(os.getpid(), signal.SIGKILL)

TrainingLog.step = killed
main(sys.argv[1:])
"""


def options(config: TrainConfig) -> list[str]:
    """The command line of the fixture's settings."""
    data, schedule = config.data, config.schedule
    return [
        *("--output", config.output, "--model.name", config.model.name, "--model.size", config.model.size),
        *("--model.image_weights", config.model.image_weights, "--model.input_size", str(config.model.input_size)),
        *("--masking.image", "--masking.text", "--masking.patch", str(config.masking.patch)),
        *("--data.dataset", data.dataset, "--data.refer_root", data.refer_root, "--data.images", data.images),
        *("--schedule.warmup", str(schedule.warmup), "--schedule.batch_size", str(schedule.batch_size)),
        *("--schedule.steps", str(schedule.steps), "--schedule.learning_rate", str(schedule.learning_rate)),
        *("--precision", config.precision, "--ema", str(config.ema), "--validate_every", str(config.validate_every)),
        *("--workers", str(config.workers), "--device", "cpu"),
    ]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def log_of(config: TrainConfig) -> list[str]:
    path = Path(config.output) / "log.csv"
    return path.read_text().splitlines()[1:] if path.exists() else []


def column_of(config: TrainConfig, name: str) -> list[float]:
    with (Path(config.output) / "log.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file)]


def assert_same_weights(one: TrainConfig, other: TrainConfig) -> None:
    for name in (BEST, LAST):
        states = [load_model(Path(run.output) / name, CPU)[0].state_dict() for run in (one, other)]
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
        first, second = (read_checkpoint(Path(run.output) / name) for run in (one, other))
        assert (first["step"], first["best"]) == (second["step"], second["best"])


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        return listening.getsockname()[1]


def points(config: TrainConfig, name: str) -> Counter[int]:
    """How often TensorBoard shows each step of a curve."""
    events = EventAccumulator(str(Path(config.output) / "tensorboard"))
    events.Reload()
    return Counter(event.step for event in events.Scalars(name))


def interrupt(monkeypatch, owner: object, name: str, number: int, call: int = 1) -> None:
    """A call of a function of `owner` is interrupted by a signal as it begins."""
    inner, calls = getattr(owner, name), []

    def interrupted(*arguments, **named):
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), number)
        return inner(*arguments, **named)

    monkeypatch.setattr(owner, name, interrupted)


@pytest.mark.slow
def test_a_training_stopped_in_a_validation_and_in_a_step_goes_on_with_the_same_log_and_best(
    config, whole, monkeypatch, capsys
):
    with monkeypatch.context() as patched:
        interrupt(patched, training, "tally", signal.SIGINT)
        assert train(config) == 128 + signal.SIGINT
    assert "stopped; the same command goes on from the last checkpoint" in capsys.readouterr().err
    saved = read_checkpoint(Path(config.output) / LAST)
    assert (saved["step"], saved["judged"], saved["best"]) == (3, 0, None)
    assert not (Path(config.output) / BEST).exists()

    with monkeypatch.context() as patched:
        interrupt(patched, Learner, "gradients", signal.SIGTERM, call=2)
        assert train(config) == 128 + signal.SIGTERM
    saved = read_checkpoint(Path(config.output) / LAST)
    assert (saved["step"], saved["judged"], saved["best"]["step"]) == (5, 3, 3)
    assert len(log_of(config)) == 5
    assert f"stopped after step 5 of {STEPS}; the same command goes on from there" in capsys.readouterr().out

    with (Path(config.output) / "log.csv").open("a") as file:
        file.write("6,0.5,0.1,1.0\n7")  # what a kill in the middle of writing leaves
    assert train(config) == 0
    assert "going on after step 5" in capsys.readouterr().out
    assert log_of(config) == log_of(whole)
    assert points(config, "train/loss") == points(whole, "train/loss") == Counter(range(1, STEPS + 1))
    assert points(config, "val/oIoU_model_size") == Counter(SAVED_AT)
    assert_same_weights(config, whole)


@pytest.mark.slow
def test_a_training_that_is_done_stays_as_it_is(whole, capsys):
    before = log_of(whole)
    capsys.readouterr()
    assert train(whole) == 0
    said = capsys.readouterr().out
    assert f"all {STEPS} steps are done; give another --output" in said
    assert f"step {read_checkpoint(Path(whole.output) / BEST)['step']}\n" in said
    assert log_of(whole) == before


@pytest.mark.slow
def test_best_is_the_checkpoint_with_the_highest_oiou(tmp_path, capsys):
    schedule = ScheduleConfig(batch_size=6, warmup=0, steps=12, learning_rate=1.0)  # so that it gets worse in between
    config = TrainConfig(
        output=str(tmp_path), schedule=schedule, validate_every=2, ema=0.0, workers=0, precision="fp32", device="cpu"
    )
    processes, model, targets = Processes(0, 1, CPU), TinyModel(), tiny_targets(12)
    learner, batches = Learner(model, config, 12, processes), Batches(targets, model, config, processes)
    assert Training(config, learner, batches, targets[:6], 12).go_on(StopRequest()) == 0
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    figures = {event.step: event.value for event in events.Scalars("val/oIoU_model_size")}
    assert list(figures) == [2, 4, 6, 8, 10, 12]
    best = read_checkpoint(tmp_path / BEST)
    assert figures[best["step"]] == max(figures.values()) > figures[12]
    assert best["best"]["model_size"]["oIoU"] == pytest.approx(max(figures.values()))
    assert f"oIoU {best['best']['model_size']['oIoU']:.3f}" in capsys.readouterr().out
    assert events.Images("prediction/0")
    model.load_state_dict(best["model"])
    scores = tally(model, targets[:6], batch_size=6, precision="fp32", device=CPU)
    assert Results.of(scores).named.items() <= best["best"].items()


@pytest.mark.parametrize("name", ["training_targets", "build_model", "joined"])
def test_a_signal_while_loading_ends_at_once_and_leaves_the_folder_free(config, monkeypatch, name):
    interrupt(monkeypatch, training, name, signal.SIGTERM)
    assert train(config) == 128 + signal.SIGTERM
    assert not (Path(config.output) / LAST).exists()
    with working_in(Path(config.output), ALL):
        pass


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
    assert train(replace(short, schedule=replace(short.schedule, checkpointing=True))) == 0  # changes memory alone
    assert last.read_bytes() == data
    last.write_bytes(data[:1000])
    with pytest.raises(UserError, match=r"last\.pt: not a readable checkpoint"):
        train(short)
    assert last.read_bytes() == data[:1000]


@pytest.mark.slow
def test_bf16_trains_and_validates(config):
    assert train(replace(config, precision="bf16", schedule=replace(config.schedule, steps=4))) == 0
    assert all(0 < loss < 20 for loss in column_of(config, "loss"))


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
def test_a_killed_training_goes_on_with_the_same_log(config, killed, whole):
    assert (len(log_of(killed)), read_checkpoint(Path(killed.output) / LAST)["step"]) == (KILLED_AFTER, 3)
    shutil.copytree(killed.output, config.output)
    assert train(replace(config, workers=1)) == 0
    assert log_of(config) == log_of(whole)
    assert_same_weights(config, whole)


@pytest.mark.slow
def test_two_processes_have_the_losses_and_figures_of_one(settings, killed, whole, tmp_path):
    """Gloo on the CPU, with masking: two trainings of the CLIP model and of MaskRIS, which weighs its classes unequally.

    The former goes on from a checkpoint that only the first process has. The order of sums differs, so the losses agree up to
    rounding: measured 3e-8 and 6e-8, and the norms 5e-7. Class weights summed over each process's own batch would give 6e-6
    in the first loss and 3e-4 in its gradient norm. MaskRIS has 64 pixels,
    since at 32 its coarsest map is a single one: GroupNorm over the two channels of a group then multiplies rounding errors by
    up to eps ** -0.5 = 316, in the output and in the gradients, at every step. After 12 steps two processes differ from one by
    3e-6, and one thread from two by 1e-5.
    """
    maskris = ModelConfig("maskris", "tiny", image_weights="none", input_size=64)
    few = replace(settings.schedule, steps=5, learning_rate=1e-4)
    one = replace(settings, output=str(tmp_path / "one"), model=maskris, schedule=few)
    both = [replace(settings, output=str(tmp_path / "clip")), replace(one, output=str(tmp_path / "maskris"))]
    shutil.copytree(killed.output, Path(both[0].output) / "0")
    (tmp_path / "trainings.json").write_text(json.dumps([(options(each), free_port()) for each in both]))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    process = subprocess.Popen([*torchrun, str(MANY), str(tmp_path / "trainings.json")], env=environment())
    assert train(one) == 0  # meanwhile
    assert process.wait() == 0
    for alone, each in ((whole, both[0]), (one, both[1])):
        together = replace(each, output=f"{each.output}/0")
        assert column_of(together, "loss") == pytest.approx(column_of(alone, "loss"), abs=1e-6)
        assert len(column_of(together, "loss")) == each.schedule.steps
        place = 0 if each is both[1] else 3  # the first step that both have done, from the same weights
        norms = [column_of(run, "gradient_norm")[place] for run in (alone, together)]
        assert norms[1] == pytest.approx(norms[0], rel=1e-5)
        first, second = (read_checkpoint(Path(run.output) / BEST)["best"] for run in (alone, together))
        assert second["model_size"]["count"] == first["model_size"]["count"] > 0
        assert second["model_size"]["mIoU"] == pytest.approx(first["model_size"]["mIoU"], abs=0.01)
        assert not Path(f"{each.output}/1/{LAST}").exists()
