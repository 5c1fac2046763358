"""From settings to a RIS model."""

from __future__ import annotations

import torch

from pseudo_ris.ris.config import ModelConfig
from pseudo_ris.ris.model import RisModel


def build_model(config: ModelConfig, seed: int) -> RisModel:
    """The model of a config, in training mode, on the CPU; what no file gives is drawn by the seed.

    torch's random state is left as it was. Raises UserError when weights are missing, damaged or another model's, or there is
    no such size.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _class_of(config.name).from_config(config).train()


def _class_of(name: str) -> type[RisModel]:
    """Imported when asked for: each brings a large package with it."""
    if name == "maskris":
        from pseudo_ris.ris.maskris.model import MaskRis

        return MaskRis
    from pseudo_ris.ris.clip.model import ClipRis

    return ClipRis
