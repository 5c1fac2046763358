"""Models of stages 1 and 2 as parts of a RIS model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import nn

from pseudo_ris.checkpoints.weights import ready_model
from pseudo_ris.config import ClipConfig, CutlerConfig, SamConfig
from pseudo_ris.ris.config import NO_WEIGHTS

Part = TypeVar("Part", bound=nn.Module)


def part_of(
    build: Callable[[str], Part],
    config: type[ClipConfig | CutlerConfig | SamConfig],
    architecture: str,
    weights: str,
    kind: str,
) -> Part:
    """A model with its weights, or with NO_WEIGHTS as torch's random state draws it; for the rest see ready_model."""
    if weights == NO_WEIGHTS:
        return build(architecture)
    return ready_model(build, config(architecture, weights), kind)
