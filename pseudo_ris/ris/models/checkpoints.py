"""Checkpoints of a training: `last.pt`, from which it resumes, and `best.pt`, which is evaluated.

Both are torch files of tensors and plain data, so reading one runs no code:

    format   FORMAT                      model      the weights in training (best.pt: those to evaluate)
    config   TrainConfig as dicts        step       steps done; epoch, place in it and learning rate follow from it
    best     step and figures of best.pt, or None where nothing is validated
    pieces   word pieces of models that have their own, see RisModel.pieces

and of last.pt also: data (digest of the training targets), judged (step of the newest weights that best.pt was chosen among),
average (the averaged weights, or None), optimizer, scaler, random (torch's random states, one entry a process).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pseudo_ris.checkpoints.torch_files import load_torch_file
from pseudo_ris.errors import UserError
from pseudo_ris.io.files import temporary_name, writing
from pseudo_ris.ris.config import DataConfig, MaskingConfig, ModelConfig, ScheduleConfig, TrainConfig
from pseudo_ris.ris.models.base import RisModel
from pseudo_ris.ris.models.build import build_empty

FORMAT = 1
BEST, LAST = "best.pt", "last.pt"
GROUPS = {"model": ModelConfig, "masking": MaskingConfig, "data": DataConfig, "schedule": ScheduleConfig}

Checkpoint = dict[str, Any]


def load_model(path: Path, device: torch.device) -> tuple[RisModel, TrainConfig]:
    """The model of a checkpoint with the weights to evaluate (the averaged ones where there are), in eval mode on `device`.

    The files that its towers once started from are not needed.
    Raises UserError when there is no such file, or it is damaged, of another version or no checkpoint of a training.
    """
    content = read_checkpoint(path, mmap=True)
    config = config_of(content, path)
    model = restored_model(content, config, content.get("average") or content["model"], path)
    return model.to(device).eval(), config


def restored_model(content: Checkpoint, config: TrainConfig, state: Mapping[str, torch.Tensor], path: Path) -> RisModel:
    """The model of the checkpoint at `path` with its weights `state`, in training mode on the CPU.

    config: its settings. Raises UserError when the weights are another model's.
    """
    try:
        model = build_empty(config.model, content.get("pieces", []))
        model.load_state_dict(state)
    except (RuntimeError, KeyError) as error:  # tensors or word pieces that are missing or wrong
        problem = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: its weights are not those of its model ({problem}); train again with this version") from error
    return model


def read_checkpoint(path: Path, mmap: bool = False) -> Checkpoint:
    """Content of a checkpoint, tensors on the CPU. Raises UserError, see `load_model`.

    mmap: tensors that are not used, such as the optimizer's in an evaluation, are not read.
    """
    try:
        content = load_torch_file(path, mmap)
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such checkpoint; give best.pt or last.pt of a training") from error
    except Exception as error:  # a damaged zip file, a pickle that would run code: each has an error of its own
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise UserError(f"{path}: not a readable checkpoint ({reason}); remove it, or give another") from error
    if not isinstance(content, dict) or not {"format", "config", "model", "step"} <= content.keys():
        raise UserError(f"{path}: not a checkpoint of train_ris/train.py; give best.pt or last.pt of a training")
    if content["format"] != FORMAT:
        raise UserError(f"{path}: of format {content['format']}, this version reads {FORMAT}; use the version that wrote it")
    return content


def write_checkpoint(path: Path, content: Checkpoint) -> None:
    """Writes a checkpoint so that a reader, or a killed run, never sees half of one. Raises UserError."""
    temporary = temporary_name(path)
    with writing(path):
        with temporary.open("wb") as file:
            torch.save({"format": FORMAT, **content}, file)
        temporary.replace(path)


def config_of(content: Checkpoint, path: Path) -> TrainConfig:
    """The settings a checkpoint was trained with. Raises UserError when this version has other ones."""
    try:
        plain = content["config"]
        return TrainConfig(**{**plain, **{name: group(**plain[name]) for name, group in GROUPS.items()}})
    except (TypeError, KeyError) as error:
        raise UserError(f"{path}: its settings are not this version's ({error}); use the version that wrote it") from error
