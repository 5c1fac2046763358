"""Checkpoints: from a `weights` setting to a filled model; the one place that reads or writes a checkpoint file."""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from pseudo_ris.assets.vocabulary import WEIGHTS as EMBEDDED
from pseudo_ris.checkpoints.manifest import WeightsFile, held_checksum, local_path, read_manifest
from pseudo_ris.checkpoints.open_clip_tags import fetch_tag, openai_checksums, tags_of
from pseudo_ris.checkpoints.random_weights import fill_at_random
from pseudo_ris.checkpoints.torch_files import is_torchscript, load_torch_file, load_trusted_torchscript
from pseudo_ris.config import EMBEDDED_NAME, NOT_IN_RESULTS, RANDOM
from pseudo_ris.errors import UserError
from pseudo_ris.io.files import digest, file_digest

SHOWN = 3
# Entries of published checkpoints that are no weights: constants that the model computes itself.
CONSTANTS = ("attn_mask", "position_ids", "pixel_mean", "pixel_std", "input_resolution", "context_length", "vocab_size")

Model = TypeVar("Model", bound=nn.Module)


class ModelConfig(Protocol):
    """What CutlerConfig, SamConfig, CocaConfig and ClipConfig share."""

    @property
    def architecture(self) -> str: ...
    @property
    def weights(self) -> str: ...
    @property
    def precision(self) -> str: ...


def ready_model(build: Callable[[str], Model], config: ModelConfig, kind: str) -> Model:
    """The model of a config with its weights, in eval mode, on the CPU.

    build: architecture -> model. kind: "cutler", "sam", "coca" or "clip".
    Raises UserError when the weights are missing, damaged or another model's.
    """
    model = build(config.architecture)
    if config.weights == RANDOM:
        return fill_at_random(model, kind)
    return load_weights(model, find_weights(config, kind), f"{kind} ({config.architecture})")


def find_weights(config: ModelConfig, kind: str) -> Path:
    """File of a config's weights: the embedded one, a path, a name of the manifest, or an open_clip tag.

    A manifest file is held to its published or recorded checksum. A tag that is not in the manifest is fetched by open_clip.
    Raises UserError when there is no such file, or its content is not what was published.
    """
    weights = config.weights
    if weights == EMBEDDED_NAME:
        return EMBEDDED / f"{kind}.safetensors"
    if Path(weights).is_file():
        return Path(weights)
    manifest = read_manifest()
    entry = manifest.files.get(weights) or manifest.find_tag(config.architecture, weights)
    if entry is not None:
        if (entry.model, entry.architecture) != (kind, config.architecture):
            remedy = f"set {kind}.architecture to that, or other weights"
            raise UserError(f"{kind}.weights: {entry.name} is {entry.model} {entry.architecture}; {remedy}")
        return published_file(entry, f"{kind}.weights")
    if kind in ("coca", "clip") and weights in tags_of(config.architecture):
        return fetch_tag(config.architecture, weights)
    names = [name for name, entry in manifest.files.items() if entry.model == kind]
    raise UserError(
        f"{kind}.weights: {weights} does not exist; give a checkpoint file, demo, random or one of {', '.join(names)} "
        "(third_party/weights.yaml)"
    )


def published_file(entry: WeightsFile, setting: str) -> Path:
    """The downloaded file of a manifest entry, held to its checksum.

    setting: which names it, for messages. Raises UserError when it is not there, or its content is not what was published.
    """
    where, path = f"{setting}: {entry.name}", local_path(entry)
    if not path.is_file():
        raise UserError(f"{where}: {path} is not there; run: bash scripts/download_weights.sh {entry.name}")
    held = held_checksum(entry)
    if held is not None and fingerprint(path) != held:
        raise UserError(f"{where}: {path} is not the file that was published (sha256); remove it and download it again")
    return path


@cache
def fingerprint(path: Path) -> str:
    """Sha256 of a checkpoint file, hex."""
    return file_digest(path)


def result_basis(allow_tf32: bool = False, **configs: Any) -> str:
    """Hash of the settings and weights a result depends on; kind of model -> its config, and further configs by any name.

    allow_tf32: fp32 is computed with the precision of TF32, which counts like a model's precision.
    Where weights lie and settings that only change speed or what is counted (config.NOT_IN_RESULTS) are left out.
    """
    parts: list[Any] = ["tf32"] if allow_tf32 else []
    for name, config in sorted(configs.items()):
        parts += [name, {k: v for k, v in dataclasses.asdict(config).items() if k not in NOT_IN_RESULTS}]
        if hasattr(config, "weights"):
            parts.append(RANDOM if config.weights == RANDOM else fingerprint(find_weights(config, name)))
    return digest(*parts)


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a checkpoint by name, on the CPU. No pickle code is run.

    Reads .safetensors, torch files that are a state dict or hold one under "model" or "state_dict" (of which only that is
    read into memory), and TorchScript archives as OpenAI's CLIP comes in. A prefix "module." is taken off.
    Raises UserError when the file is none of these, or an archive that would unpack to more than the file.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = _load_archived_clip(path) if is_torchscript(path) else load_torch_file(path, mmap=True)
    except UserError:
        raise
    except (SafetensorError, RuntimeError, ValueError, EOFError, OSError, KeyError, ImportError, zipfile.BadZipFile) as error:
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


def _load_archived_clip(path: Path) -> dict[str, torch.Tensor]:
    """State dict of a TorchScript archive of OpenAI's CLIP. Raises UserError for any other archive, without opening it."""
    if fingerprint(path) not in openai_checksums():
        raise UserError(
            f"{path}: a TorchScript archive, which may contain code, and its sha256 is none that OpenAI published for CLIP; "
            f"download it again, or, if you trust the file, save its tensors with torch.save(torch.jit.load("
            f"{path.name!r}).state_dict(), 'weights.pt') and give that file"
        )
    return load_trusted_torchscript(path)


def load_weights(model: Model, path: Path, name: str) -> Model:
    """Fills `model` with the checkpoint at `path`, in the model's own dtypes, and puts it in eval mode.

    name: what the model is called in messages, for example "coca (demo)".
    Raises UserError that lists the first missing, surplus or misshapen tensors; `model` is then untouched.
    """
    own = model.state_dict()
    counters = {key: value for key, value in own.items() if key.endswith("num_batches_tracked")}
    read = {key: value for key, value in read_state(path).items() if key in own or key.rpartition(".")[2] not in CONSTANTS}
    state = {**counters, **{key: _scalar_as(own.get(key), value) for key, value in read.items()}}
    if problems := misfits(own, state):
        raise UserError(f"{path}: not weights of {name}: tensors {problems}; set the architecture of these weights")
    model.load_state_dict(state)
    return model.eval()


def misfits(own: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> str:
    """How many tensors of `state` a model with the tensors `own` lacks, has no use for or has in another shape.

    With the first names of each kind: "1 missing (a.bias); 1 of another shape (a.weight is (2, 3), not (2, 2))"; "" when all
    fit.
    """
    wrong = {
        "missing": sorted(own.keys() - state.keys()),
        "surplus": sorted(state.keys() - own.keys()),
        "of another shape": [
            f"{key} is {tuple(state[key].shape)}, not {tuple(own[key].shape)}"
            for key in sorted(own.keys() & state.keys())
            if own[key].shape != state[key].shape
        ],
    }
    return "; ".join(
        f"{len(keys)} {what} ({', '.join(keys[:SHOWN])}{', ...' if len(keys) > SHOWN else ''})"
        for what, keys in wrong.items()
        if keys
    )


def _scalar_as(own: torch.Tensor | None, value: torch.Tensor) -> torch.Tensor:
    """`value`, a single number in the shape of `own`: checkpoints have CLIP's logit scale as a scalar or as one entry."""
    return value.reshape(own.shape) if own is not None and own.numel() == value.numel() == 1 else value


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
