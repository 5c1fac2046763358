"""A checkpoint as training leaves it, of a small model that has learnt nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from pseudo_ris.ris.config import DataConfig, ModelConfig, TrainConfig
from pseudo_ris.ris.models.build import build_model
from pseudo_ris.ris.models.checkpoints import write_checkpoint

SIZE = 64


def write_demo_checkpoint(path: Path, data: DataConfig) -> Path:
    config = TrainConfig(model=ModelConfig(image_weights="none", input_size=SIZE), data=data)
    state = build_model(config.model, config.seed).state_dict()
    write_checkpoint(path, {"config": dataclasses.asdict(config), "model": state, "step": 1})
    return path
