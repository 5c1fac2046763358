"""An exponential average of a model's weights."""

from __future__ import annotations

import copy

import torch

from pseudo_ris.ris.models.base import RisModel


class Average:
    """A copy of a model that holds the running average of its parameters; buffers are the model's newest.

    Args:
        model: the one in training; the average begins at its weights.
        decay: share of the old average that is kept at a step, in [0, 1). It grows up to this, so that the first, untrained
            weights are forgotten soon: at step t (from 0) it is min(decay, (1 + t) / (10 + t)).
    """

    def __init__(self, model: RisModel, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, model: RisModel, step: int) -> None:
        """Takes in the weights that `model` has after `step`."""
        decay = min(self.decay, (1 + step) / (10 + step))
        own, new = list(self.model.parameters()), [parameter.detach() for parameter in model.parameters()]
        torch._foreach_lerp_(own, new, 1 - decay)
        for kept, newest in zip(self.model.buffers(), model.buffers(), strict=True):
            kept.copy_(newest)
