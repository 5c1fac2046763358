"""Published weights of the towers: timm's (and Microsoft's) Swin, transformers' BERT. All of a tower arrives, or nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from pseudo_ris.errors import UserError
from pseudo_ris.manifest import read_manifest
from pseudo_ris.ris.config import NO_WEIGHTS, ModelConfig
from pseudo_ris.ris.maskris.swin import TABLE, window_of
from pseudo_ris.weights import SHOWN, find_weights, read_state

State = dict[str, torch.Tensor]

NOT_OF_SWIN = ("head.", "norm.")
"""The classifier and the norm before it, which a map has no use for."""
NOT_OF_BERT = ("cls.", "pooler.")
"""The heads that BERT was pre-trained with."""


@dataclass(frozen=True)
class _ManifestEntry:
    """What weights.find_weights asks of a setting."""

    architecture: str
    weights: str
    precision: str = "fp32"


def find_start(config: ModelConfig, setting: str) -> Path | None:
    """The file of `image_weights` or `text_weights`, or None for "none". Raises UserError when there is no such file."""
    value = getattr(config, setting)
    if value == NO_WEIGHTS:
        return None
    if Path(value).is_file():
        return Path(value)
    if value in read_manifest().files:
        return find_weights(_ManifestEntry(config.size, value), {"image_weights": "swin", "text_weights": "bert"}[setting])
    raise UserError(f"model.{setting}: {value} does not exist; give none or a checkpoint file")


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
    own = tower.state_dict()
    misshapen = [
        f"{name} is {tuple(state[name].shape)}, not {tuple(own[name].shape)}"
        for name in sorted(own.keys() & state.keys())
        if own[name].shape != state[name].shape
    ]
    wrong = {
        "missing": sorted(own.keys() - state.keys()),
        "surplus": sorted(state.keys() - own.keys()),
        "of another shape": misshapen,
    }
    problems = [
        f"{len(names)} {what} ({', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''})"
        for what, names in wrong.items()
        if names
    ]
    if problems:
        raise UserError(f"{path}: tensors {'; '.join(problems)}; {remedy}")
    tower.load_state_dict(state)


def _next_stage(match: re.Match[str]) -> str:
    return f"layers.{int(match[1]) + 1}.downsample"
