"""The training command, in miniature: its weights load where the embedded ones do."""

from __future__ import annotations

import pytest
import torch

from pseudo_ris.checkpoints.weights import EMBEDDED, read_state
from pseudo_ris.cli.lab.train import main
from pseudo_ris.config import ClipConfig, CocaConfig, CutlerConfig, SamConfig
from pseudo_ris.lab import train_clip, train_coca, train_cutler, train_sam
from pseudo_ris.lab.train import MODELS, draw_training_scenes, train_model
from pseudo_ris.models.clip.scorer import ClipScorer
from pseudo_ris.models.coca.captioner import CocaCaptioner
from pseudo_ris.models.cutler.detector import Cutler
from pseudo_ris.models.sam.segmenter import AutomaticSam

LOADERS = {
    "cutler": lambda path: Cutler.from_config(CutlerConfig(weights=path), "cpu"),
    "sam": lambda path: AutomaticSam.from_config(SamConfig(weights=path), "cpu"),
    "coca": lambda path: CocaCaptioner.from_config(CocaConfig(weights=path), "cpu"),
    "clip": lambda path: ClipScorer.from_config(ClipConfig(weights=path), "cpu"),
}


@pytest.fixture
def small_batches(monkeypatch):
    small = {train_cutler: ("BATCH", "STATISTICS_BATCHES"), train_sam: ("IMAGES_PER_STEP",), train_coca: ("BATCH",)}
    for module, names in {**small, train_clip: ("BATCH", "MASKED")}.items():
        for name in names:
            monkeypatch.setattr(module, name, 2)


@pytest.mark.slow
def test_the_command_trains_in_processes_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    options = ["--steps", "1", "--scenes", "12", "--free-scenes", "8", "--out", str(tmp_path), "--device", "cpu"]
    assert main([*options, "--models", "coca", "clip"]) == 0
    for name in ("coca", "clip"):
        LOADERS[name](str(tmp_path / f"{name}.safetensors"))


@pytest.mark.slow
def test_two_steps_of_all_four_models(tmp_path, small_batches):
    draw_training_scenes(tmp_path, seed=0, ordinary=6, free=4, workers=1)
    for name, load in LOADERS.items():
        train_model(name, tmp_path, tmp_path, 0, 2, "cpu")
        load(str(tmp_path / f"{name}.safetensors"))


def test_embedded_weights_are_small_enough_to_ship():
    files = sorted(path.name for path in EMBEDDED.glob("*.safetensors"))
    assert files == ["clip.safetensors", "coca.safetensors", "cutler.safetensors", "sam.safetensors"]
    assert sum(path.stat().st_size for path in EMBEDDED.iterdir()) <= 16 * 2**20


@pytest.mark.parametrize("name", sorted(LOADERS))
def test_embedded_weights_are_finite_and_load(name):
    path = EMBEDDED / f"{name}.safetensors"
    assert all(value.isfinite().all() for value in read_state(path).values() if value.is_floating_point())
    LOADERS[name]("demo")


@pytest.mark.gpu
def test_training_runs_on_a_gpu(tmp_path, small_batches):
    draw_training_scenes(tmp_path, seed=0, ordinary=6, free=4, workers=1)
    for name in MODELS:
        train_model(name, tmp_path, tmp_path, 0, 1, "cuda")
        LOADERS[name](str(tmp_path / f"{name}.safetensors"))
    assert torch.cuda.max_memory_allocated() > 2**20
