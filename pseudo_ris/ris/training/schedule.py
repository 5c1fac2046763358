"""The optimiser of a RIS model and its learning rate from step to step."""

from __future__ import annotations

import math

import torch

from pseudo_ris.errors import UserError
from pseudo_ris.ris.config import ScheduleConfig
from pseudo_ris.ris.models.base import RisModel

WARMUP_START = 1e-3
POWER = 0.9
STEP_AT, STEP_FACTOR = 0.7, 0.1


def build_optimizer(model: RisModel, config: ScheduleConfig) -> torch.optim.AdamW:
    """AdamW on the model's parameter groups. Each group has a "scale", its factor on the learning rate: `tower_scale` or 1."""
    groups = [
        {
            "params": group["params"],
            "scale": config.tower_scale if group["tower"] else 1.0,
            "weight_decay": config.weight_decay if group["decay"] else 0.0,
        }
        for group in model.parameter_groups()
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=config.fused)


def set_learning_rate(optimizer: torch.optim.Optimizer, config: ScheduleConfig, step: int, steps: int) -> None:
    """Gives every group its learning rate at `step` (from 0) of `steps`."""
    rate = config.learning_rate * factor_at(step, steps, config)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


def factor_at(step: int, steps: int, config: ScheduleConfig) -> float:
    """Share of the full learning rate at `step` (from 0) of `steps`.

    It rises linearly from WARMUP_START at step 0 to 1 at step `warmup`. From there "poly" and "cosine" fall to 0 at `steps`;
    "step" stays, and is STEP_FACTOR from STEP_AT of all steps on (CRIS: epoch 35 of 50). "poly_release" is what MaskRIS's
    release does: "poly" counted from step 0, so that it drops after the warm-up, and the full rate at step 0.
    """
    if config.decay == "poly_release" and (step == 0 or step > config.warmup):
        return (1 - step / steps) ** POWER
    if step < config.warmup:
        return WARMUP_START + (1 - WARMUP_START) * step / config.warmup
    left = 1 - (step - config.warmup) / (steps - config.warmup)
    if config.decay in ("poly", "poly_release"):
        return left**POWER
    if config.decay == "cosine":
        return (1 - math.cos(math.pi * left)) / 2
    return STEP_FACTOR if step >= STEP_AT * steps else 1.0


def count_steps(samples: int, config: ScheduleConfig) -> int:
    """Steps of the whole training: `config.steps`, or the full batches of `config.epochs` passes over that many samples.

    The samples that do not fill the last batch of an epoch are left out of it; each epoch has another order.
    Raises UserError when there is not one full batch, or the training ends before the warm-up does.
    """
    batches = samples // config.batch_size
    if not batches:
        raise UserError(
            f"schedule.batch_size: {config.batch_size}, but there are {samples} samples; lower it or give more data"
        )
    steps = config.steps or config.epochs * batches
    if steps <= config.warmup:
        raise UserError(f"schedule.warmup: {config.warmup} steps, but the training has {steps}; lower it or train longer")
    return steps
