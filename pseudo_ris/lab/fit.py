"""The training loop of the four embedded models."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import nn

from pseudo_ris.io.terminal import ProgressBar

AVERAGE_DECAY = 0.998
CPU = torch.device("cpu")
Batch = TypeVar("Batch")


def autocast(device: torch.device) -> torch.autocast:
    """The arithmetic of trainings: bf16 on a GPU and on CPUs with instructions for it, otherwise fp32.

    Without such instructions (before AVX-512) a step of CoCa's training takes 50 times as long in bf16.
    """
    native = device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=native)


def one_ahead(draw: Callable[[int], Batch]) -> Callable[[int], Batch]:
    """Returns `draw`, a function of the step, computed one step ahead in a thread to use an idle core."""
    pool = ThreadPoolExecutor(1)
    waiting: dict[int, Future[Batch]] = {}

    def get(step: int) -> Batch:
        batch = waiting.pop(step, None) or pool.submit(draw, step)
        waiting[step + 1] = pool.submit(draw, step + 1)
        return batch.result()

    return get


def fit(
    model: nn.Module,
    loss_of_step: Callable[[int], torch.Tensor],
    *,
    name: str,
    steps: int,
    learning_rate: float,
    warmup: int = 100,
    weight_decay: float = 0.05,
    clip_norm: float = 1.0,
) -> nn.Module:
    """Trains `model` in place with AdamW, linear warm-up and cosine decay, and sets it to the moving average of its weights.

    Args:
        loss_of_step: step -> scalar loss; draws its own batch, seeded by the step, and chooses its own autocast.
        name: title of the progress bar.
        weight_decay: applies to parameters with two or more dimensions.

    Returns:
        `model` in eval mode with averaged parameters; buffers keep their last values.
        Raises FloatingPointError when the loss is not finite.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in parameters if p.ndim >= 2]
    rest = [p for p in parameters if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}],
        lr=learning_rate,
        betas=(0.9, 0.98),
    )
    averages = [p.detach().clone() for p in parameters]
    model.train()
    with ProgressBar(name, steps, unit="steps") as bar:
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * _schedule(step, steps, warmup)
            loss = loss_of_step(step)
            if not torch.isfinite(loss):
                raise FloatingPointError(f"{name}: loss is {loss.item()} at step {step}; lower the learning rate")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, clip_norm)
            optimizer.step()
            decay = min(AVERAGE_DECAY, (1 + step) / (10 + step))
            torch._foreach_lerp_(averages, [p.detach() for p in parameters], 1 - decay)
            bar.update(note=f"loss {loss.item():.3f}" if step % 20 == 0 else None)
    with torch.no_grad():
        for parameter, average in zip(parameters, averages, strict=True):
            parameter.copy_(average)
    return model.eval()


def _schedule(step: int, steps: int, warmup: int) -> float:
    """Returns the learning rate at `step` relative to its peak: linear warm-up, then cosine decay to 1%."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))
