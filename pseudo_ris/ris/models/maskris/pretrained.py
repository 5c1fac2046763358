"""Published files: timm's (and Microsoft's) Swin, transformers' BERT and its words. All of a tower arrives, or nothing."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import nn

from pseudo_ris.checkpoints.manifest import read_manifest
from pseudo_ris.checkpoints.weights import misfits, published_file, read_state
from pseudo_ris.errors import UserError
from pseudo_ris.ris.config import ModelConfig
from pseudo_ris.ris.models.maskris.swin import TABLE, window_of

State = dict[str, torch.Tensor]

NOT_OF_SWIN = ("head.", "norm.")
"""The classifier and the norm before it, which a map has no use for."""
NOT_OF_BERT = ("cls.", "pooler.")
"""The heads that BERT was pre-trained with."""
KINDS = {"image_weights": "swin", "text_weights": "bert", "vocabulary": "bert_words"}
"""What a setting may name of the manifest, see WeightsFile.model."""


def find_file(config: ModelConfig, setting: str, default: str) -> Path | None:
    """The file that one of KINDS names, by its path or its name in the manifest; None for the setting's `default`.

    Raises UserError when there is no such file, or it is not the one that was published.
    """
    value = getattr(config, setting)
    if value == default:
        return None
    if Path(value).is_file():
        return Path(value)
    files = read_manifest().files
    entry = files.get(value)
    if entry is not None and entry.model == KINDS[setting]:
        return published_file(entry, f"model.{setting}")
    problem = "does not exist" if entry is None else f"is {entry.model} {entry.architecture}"
    fitting = ", ".join(name for name, each in files.items() if each.model == KINDS[setting])
    raise UserError(
        f"model.{setting}: {value} {problem}; give {default}, a file or one of {fitting} (third_party/weights.yaml)"
    )


def read_swin(path: Path) -> State:
    """The tensors of a Swin checkpoint by timm's names; its classifier and final norm are left out.

    Microsoft's files, and timm's before 0.9, have the down-sampling at the end of a stage instead of the next one's start,
    and constants that the model computes itself.
    """
    state = {
        name: value
        for name, value in read_state(path).items()
        if not name.startswith(NOT_OF_SWIN) and not name.endswith(("attn_mask", "relative_position_index"))
    }
    if any(name.startswith("layers.0.downsample.") for name in state):
        state = {re.sub(r"^layers\.(\d+)\.downsample", _next_stage, name): value for name, value in state.items()}
    return state


def window_of_state(state: State, path: Path) -> int:
    """Side of the attention windows that Swin's tensors are for. Raises UserError when they are no Swin's."""
    windows = {window_of(value) for name, value in state.items() if name.endswith(TABLE)}
    window = windows.pop() if len(windows) == 1 else None
    if window is None:
        raise UserError(f"{path}: no Swin with windows of one size; set model.image_weights to a checkpoint of timm's Swin")
    return window


def read_bert(path: Path) -> State:
    """The tensors of a BERT checkpoint by transformers' names of its base model; heads and pooler are left out.

    Early files have `gamma` and `beta` for a norm's weight and bias, and the constant `position_ids`.
    """
    state = {}
    for name, value in read_state(path).items():
        name = (
            name.removeprefix("bert.")
            .replace("LayerNorm.gamma", "LayerNorm.weight")
            .replace("LayerNorm.beta", "LayerNorm.bias")
        )
        if not name.startswith(NOT_OF_BERT) and not name.endswith("position_ids"):
            state[name] = value
    return state


def fill(tower: nn.Module, state: State, path: Path, remedy: str) -> None:
    """Fills a tower with all tensors of `state`, in its own dtypes.

    Raises UserError that names the first tensors that are missing, surplus or of another shape; the tower is then untouched.
    """
    if problems := misfits(tower.state_dict(), state):
        raise UserError(f"{path}: tensors {problems}; {remedy}")
    tower.load_state_dict(state)


def _next_stage(match: re.Match[str]) -> str:
    return f"layers.{int(match[1]) + 1}.downsample"
