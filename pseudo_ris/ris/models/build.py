"""From settings to a RIS model."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pseudo_ris.errors import UserError
from pseudo_ris.ris.config import ModelConfig
from pseudo_ris.ris.models.base import RisModel


def build_model(config: ModelConfig, seed: int) -> RisModel:
    """The model of a config, in training mode, on the CPU; what no file gives is drawn by the seed.

    torch's random state is left as it was. Raises UserError when weights are missing, damaged or another model's, or there is
    no such size.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _class_of(config.name).from_config(config).train()


def build_empty(config: ModelConfig, pieces: Sequence[str]) -> RisModel:
    """The model of a config, to be filled from a checkpoint with these word pieces, see RisModel.for_checkpoint.

    In training mode, on the CPU; torch's random state is left as it was. Raises UserError when there is no such size.
    """
    with torch.random.fork_rng(devices=[]):
        return _class_of(config.name).for_checkpoint(config, pieces).train()


def _class_of(name: str) -> type[RisModel]:
    """Imported on demand: each needs a large package. Raises UserError when that is not installed."""
    if name == "maskris":
        try:
            from pseudo_ris.ris.models.maskris.model import MaskRis
        except ModuleNotFoundError as error:
            package = str(error.name).partition(".")[0]
            raise UserError(f"{package} is not installed; run: pip install -c constraints.txt -e '.[train]'") from error
        return MaskRis
    if name == "sam":
        from pseudo_ris.ris.models.sam.model import SamRis

        return SamRis
    from pseudo_ris.ris.models.cris.model import ClipRis

    return ClipRis
