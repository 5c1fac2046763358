"""Checkpoints: where the embedded ones are, and the one place that reads or writes a checkpoint file."""

from __future__ import annotations

import dataclasses
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from pseudo_ris.config import NOT_IN_RESULTS
from pseudo_ris.errors import UserError
from pseudo_ris.files import digest

EMBEDDED = Path(__file__).parent / "demo" / "weights"
SHOWN = 3


def resolve_weights(weights: str, model: str) -> Path:
    """File of a `weights` setting: "demo" is the embedded one of `model` (cutler, sam, coca, clip), else a path.

    Raises UserError when the file does not exist.
    """
    path = EMBEDDED / f"{model}.safetensors" if weights == "demo" else Path(weights)
    if not path.is_file():
        raise UserError(f"{model}.weights: {path} does not exist; give a checkpoint file, or demo for the embedded one")
    return path


@cache
def fingerprint(path: Path) -> str:
    """Sha256 of a checkpoint file, hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def result_basis(**configs: Any) -> str:
    """Hash of the settings and weights a result depends on; model name -> its config, and further configs by any name.

    Where weights lie and settings that only change speed or what is counted (config.NOT_IN_RESULTS) are left out.
    """
    parts: list[Any] = []
    for name, config in sorted(configs.items()):
        parts += [name, {k: v for k, v in dataclasses.asdict(config).items() if k not in NOT_IN_RESULTS}]
        if hasattr(config, "weights"):
            parts.append(fingerprint(resolve_weights(config.weights, name)))
    return digest(*parts)


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a checkpoint by name, on the CPU. No pickle code is run.

    Reads .safetensors, and torch files that are a state dict or hold one under "model" or "state_dict".
    Raises UserError when the file is none of these.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, ValueError, EOFError, OSError, KeyError, ImportError) as error:
        raise UserError(f"{path}: not a readable checkpoint ({_first_line(error)}); download it again") from error
    except Exception as error:  # torch.load reports refused pickles as UnpicklingError
        raise UserError(f"{path}: not a plain tensor checkpoint ({_first_line(error)}); convert it to safetensors") from error
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, not tensors by name; give a state dict")
    state = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    return {name.removeprefix("module."): value for name, value in state.items()}


def load_weights(model: nn.Module, path: Path, name: str) -> nn.Module:
    """Fills `model` with the checkpoint at `path`, in the model's own dtypes, and puts it in eval mode.

    name: what the model is called in messages, for example "coca (demo)".
    Raises UserError that lists the first missing, surplus or misshapen tensors; `model` is then untouched.
    """
    state = read_state(path)
    own = model.state_dict()
    counters = {key for key in own if key.endswith("num_batches_tracked")}
    missing = sorted(own.keys() - state.keys() - counters)
    surplus = sorted(state.keys() - own.keys())
    misshapen = sorted(key for key in own.keys() & state.keys() if own[key].shape != state[key].shape)
    problems = [
        f"{len(keys)} {what} ({', '.join(keys[:SHOWN])}{', ...' if len(keys) > SHOWN else ''})"
        for what, keys in (("missing", missing), ("surplus", surplus), ("of another shape", misshapen))
        if keys
    ]
    if problems:
        raise UserError(f"{path}: not weights of {name}: tensors {'; '.join(problems)}; set the architecture of these weights")
    model.load_state_dict({key: state.get(key, own[key]) for key in own})
    return model.eval()


def save_weights(model: nn.Module, path: Path, metadata: dict[str, str]) -> None:
    """Writes `model` as safetensors, floating-point tensors in float16 (they ship with the repository)."""
    state = {
        key: (value.half() if value.is_floating_point() else value).contiguous().cpu().clone()
        for key, value in model.state_dict().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    save_file(state, temporary, metadata)
    temporary.rename(path)


def read_metadata(path: Path) -> dict[str, str]:
    """Metadata of a safetensors file."""
    with safe_open(path, "pt") as file:
        return file.metadata() or {}


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
