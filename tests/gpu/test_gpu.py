"""Everything that runs on a CUDA device gives there what it gives on the CPU: nearly on a real one, exactly on a pretended one.

`pytest -m gpu` runs these on a real device, `test_pretended_runs.py` on a pretended one. There the operators are the CPU's, so
that masks, words and figures must be equal; only sums whose order differs, in attention, leave scores different in the last
digits.
"""

from __future__ import annotations

import csv
import functools
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import torch

from generate_masks.cutler_sam_masks import main as generate_masks
from generate_pseudo_supervision.distinctive_caption_generation import main as generate_captions
from pseudo_ris.cli.lab.refer_world import main as draw_refer_world
from pseudo_ris.io.images import decode_image
from pseudo_ris.pairs.assembly import read_pairs
from pseudo_ris.pairs.rows import Row
from pseudo_ris.ris.config import DataConfig, EvaluateConfig, MaskingConfig, ModelConfig, ScheduleConfig, TrainConfig
from pseudo_ris.ris.data.splits import training_targets
from pseudo_ris.ris.evaluation.predict import segment
from pseudo_ris.ris.evaluation.scores import margins
from pseudo_ris.ris.evaluation.split_results import evaluate_checkpoint
from pseudo_ris.ris.models.build import build_model
from pseudo_ris.ris.models.checkpoints import load_model
from pseudo_ris.ris.training.batches import Batches
from pseudo_ris.ris.training.distributed import Processes
from pseudo_ris.ris.training.learner import Learner
from pseudo_ris.ris.training.train import train
from tests.pretended_gpu import waits
from tests.pretended_gpu.runtime import LIBRARY

pytestmark = pytest.mark.gpu

PRETENDED = LIBRARY in os.environ
SCORES = ("doc", "uniqueness", "correctness", "masked_score", "crop_score")
DEVICES = ("cpu", "cuda")
IMAGES = 1 if PRETENDED else 3
MODELS = {
    "clip": ModelConfig(input_size=32),
    "clip with adapters": ModelConfig(input_size=32, adapters=True),
    "maskris": ModelConfig("maskris", "tiny", image_weights="none", input_size=32),
    "sam": ModelConfig("sam", "demo", image_weights="demo", detector_weights="demo", input_size=256),
}


@pytest.fixture(scope="module")
def images(demo_images, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for path in sorted(demo_images.iterdir())[:IMAGES]:
        shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def masks(images, tmp_path_factory) -> dict[str, Path]:
    """The folder of stage 1 by device."""
    folders = {device: tmp_path_factory.mktemp(f"masks_{device}") for device in DEVICES}
    for device, folder in folders.items():
        assert generate_masks(["--images", str(images), "--masks", str(folder), "--device", device]) == 0
    return folders


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A drawn REFER set of a few images."""
    out = tmp_path_factory.mktemp("refer") / "world"
    draw_refer_world(["--out", str(out), "--train", "2", "--val", "1", "--test", "1", "--seed", "3"])
    return out


@pytest.fixture(scope="module")
def train_two_steps(world, tmp_path_factory) -> Callable[[str, str, str], Path]:
    """Trains a model of MODELS on a device in a precision; returns the folder, the same when asked again."""

    @functools.cache
    def trained(name: str, device: str, precision: str = "fp32") -> Path:
        config = training_config(name, world, tmp_path_factory.mktemp("run") / "run", device, precision)
        assert train(config) == 0
        return Path(config.output)

    return trained


def training_config(name: str, world: Path, output: Path, device: str, precision: str = "fp32") -> TrainConfig:
    """Two steps with masking of a model of MODELS."""
    return TrainConfig(
        output=str(output),
        model=MODELS[name],
        masking=MaskingConfig(image=True, text=True, patch=16),
        data=DataConfig(dataset="drawn", refer_root=str(world), images=str(world / "images")),
        schedule=ScheduleConfig(warmup=1, batch_size=2, steps=2),
        workers=0,
        precision=precision,
        device=device,
    )


def captions_by_beam(rows: Iterable[Row]) -> Iterator[str]:
    for row in rows:
        for text, kind in zip(row["pseudo_caption"], row["strategy"], strict=True):
            if kind == "beam":
                yield text


def losses(folder: Path) -> list[float]:
    with (folder / "log.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def test_masks_are_the_cpus(masks):
    found = {
        device: {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.png")}
        for device, folder in masks.items()
    }
    assert len(found["cpu"]) >= 3 * IMAGES
    if PRETENDED:
        assert found["cuda"] == found["cpu"]
    else:
        assert len(found["cuda"]) == pytest.approx(len(found["cpu"]), rel=0.1)


def test_expressions_are_the_cpus_for_the_same_masks(images, masks, tmp_path):
    rows = {}
    for device in DEVICES:
        output = tmp_path / device
        options = ["--images", str(images), "--masks", str(masks["cpu"]), "--output", str(output), "--device", device]
        assert generate_captions(options) == 0
        rows[device] = list(read_pairs(output / "distinctive_captions_cc3m.csv"))
    assert len(rows["cpu"]) >= 3 * IMAGES
    for one, other in zip(rows["cpu"], rows["cuda"], strict=True):
        if PRETENDED:
            scores = {name: other.pop(name) for name in SCORES}
            assert {name: values for name, values in one.items() if name not in SCORES} == other
            assert all(scores[name] == pytest.approx(one[name], rel=1e-4) for name in SCORES)
    beams = {device: list(captions_by_beam(rows[device])) for device in DEVICES}
    same = sum(one == other for one, other in zip(*beams.values(), strict=True))
    assert same >= 0.9 * len(beams["cpu"])


@pytest.mark.parametrize("name", MODELS)
def test_two_steps_of_training_have_the_cpus_losses(name, train_two_steps):
    expected = losses(train_two_steps(name, "cpu"))
    assert len(expected) == 2
    assert losses(train_two_steps(name, "cuda")) == pytest.approx(expected, rel=1e-4 if PRETENDED else 1e-2)


@pytest.mark.skipif(not PRETENDED, reason="a real GPU does not count what waits for it")
@pytest.mark.parametrize("name", [name for name in MODELS if name != "sam"])
def test_a_step_of_training_waits_for_the_gpu_once(name, world, tmp_path):
    config = training_config(name, world, tmp_path, "cuda")
    processes = Processes(0, 1, torch.device("cuda"))
    learner = Learner(build_model(config.model, 0), config, 10, processes)
    batches = Batches(training_targets(config.data, 0), learner.model, config, processes).after(0)
    found = []
    for step in range(3):
        before = waits.COUNTS.copy()
        learner.gradients(next(batches))
        learner.update(step)
        found.append(waits.COUNTS - before)
    assert [counts.total() for counts in found[1:]] == [1, 1], found


@pytest.mark.parametrize("name", ["clip", "maskris"])
def test_evaluation_and_prediction_are_the_cpus(name, world, train_two_steps):
    checkpoint = train_two_steps(name, "cpu") / "best.pt"
    image = decode_image(next((world / "images").rglob("*.png")).read_bytes(), "image")
    figures, predicted, logits = {}, {}, {}
    for device in DEVICES:
        figures[device] = evaluate_checkpoint(EvaluateConfig(str(checkpoint), device=device, splits=("val",)))
        model, _ = load_model(checkpoint, torch.device(device))
        predicted[device] = segment(model, image, "the red ball", torch.device(device))
        pixels = torch.linspace(-1, 1, 3 * model.form.input_size**2).view(1, 3, model.form.input_size, -1)
        logits[device] = margins(model, pixels, *model.tokenizer(["the red ball"]), "fp32", torch.device(device))
    assert logits["cpu"].std() > 1e-3
    torch.testing.assert_close(logits["cuda"], logits["cpu"], rtol=0, atol=1e-4 if PRETENDED else 1e-2)
    if PRETENDED:
        assert json.dumps(figures["cuda"]) == json.dumps(figures["cpu"])
    assert (predicted["cuda"] != predicted["cpu"]).mean() <= (0 if PRETENDED else 0.01)


def test_training_in_half_precision_has_nearly_the_losses_of_single_precision(train_two_steps):
    expected = losses(train_two_steps("clip", "cpu"))
    assert losses(train_two_steps("clip", "cuda", "fp16")) == pytest.approx(expected, rel=0.02)
