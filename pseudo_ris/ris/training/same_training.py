"""Checks that a training resumes with the same settings and data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pseudo_ris.errors import UserError
from pseudo_ris.io.files import digest
from pseudo_ris.ris.config import TrainConfig
from pseudo_ris.ris.data.targets import Target
from pseudo_ris.ris.models.checkpoints import Checkpoint, config_of

# Settings that may change when a training resumes: paths, and what does not affect losses. Data are compared by content.
FREE = {
    *("output", "device", "workers", "validate_every", "validate_epochs", "validate_last"),
    *("data.refer_root", "data.images"),
    "schedule.checkpointing",
    *("data.pairs", "data.pair_images", "data.pair_masks", "data.features"),
}


def check_same_training(content: Checkpoint, path: Path, config: TrainConfig, targets: Sequence[Target]) -> None:
    """Raises UserError that names the first setting that differs from the training at `path`, or says that its data changed."""
    now, then = _flat(dataclasses.asdict(config)), _flat(dataclasses.asdict(config_of(content, path)))
    for name, value in now.items():
        if name not in FREE and value != then[name]:
            raise UserError(f"--{name} {value}: {path} was trained with {then[name]!r}; keep that, or give another --output")
    if content["data"] != data_digest(targets):
        raise UserError(f"{path}: was trained on other data than these; restore them, or give another --output")


def data_digest(targets: Sequence[Target]) -> str:
    """Hash of the targets' names and sentences, in order."""
    return digest([[target.name, *target.sentences] for target in targets])


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat.update(_flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value})
    return flat
