"""One training step of a RIS model, in one or several processes, and the state that a checkpoint keeps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pseudo_ris.errors import UserError
from pseudo_ris.io.device import DTYPES
from pseudo_ris.ris.config import TrainConfig
from pseudo_ris.ris.data.samples import Sample
from pseudo_ris.ris.models.base import ImageFeatures, RisModel
from pseudo_ris.ris.training.distributed import Processes
from pseudo_ris.ris.training.ema import Average
from pseudo_ris.ris.training.losses import training_loss, truth_weight
from pseudo_ris.ris.training.recomputing import recompute_image_blocks
from pseudo_ris.ris.training.schedule import build_optimizer, set_learning_rate


@dataclass(frozen=True)
class Outcome:
    """Of a step's gradients. loss: this process's, see training_loss. norm: of all processes' gradients, before clipping."""

    loss: float
    norm: float


class Learner:
    """A model in training with its optimiser and, if `ema` is set, the average of its weights.

    Args:
        model: in training mode, on the CPU; it is moved to the processes' device. Its BatchNorm, if any, must not learn.
        steps: of the whole training.
    """

    def __init__(self, model: RisModel, config: TrainConfig, steps: int, processes: Processes) -> None:
        self.config, self.steps, self.processes = config, steps, processes
        self.model = model.to(processes.device)
        self.average = Average(self.model, config.ema) if config.ema else None
        if config.schedule.checkpointing:
            recompute_image_blocks(self.model)  # not in the average, which has no backward pass
        self.optimizer = build_optimizer(self.model, config.schedule)
        # Only fp16's small range needs its gradients scaled.
        self.scaler = torch.amp.GradScaler(processes.device.type, enabled=config.precision == "fp16")
        self.together: nn.Module = self.model
        if processes.count > 1:
            places = [processes.device] if processes.device.type == "cuda" else None
            # No search for unused parameters: those of all models have gradients in every step, also the hidden word's, which
            # is zero where no word is hidden.
            self.together = DistributedDataParallel(self.model, device_ids=places)
        # Dropout is to differ between processes, what is drawn before this is not.
        torch.manual_seed(config.seed + processes.rank)

    @property
    def evaluated(self) -> RisModel:
        """The model that is validated and kept: the average where there is one."""
        return self.average.model if self.average else self.model

    def gradients(self, batch: Sample) -> Outcome:
        """Gradients of all processes' samples, clipped; the weights stay as they are. batch: this process's, see Batches.

        With `schedule.accumulate` parts of the batch are computed one after another, and their gradients add up to the batch's.
        """
        parts = split_batch(batch, self.config.schedule.accumulate)
        losses, mean = [], self._mean_of(parts)
        for number, part in enumerate(parts):
            with self._exchanging(last=number == len(parts) - 1):
                loss = self._loss(part, self.together, mean) / len(parts)
                self.scaler.scale(loss).backward()
            losses.append(loss.detach())
        loss = torch.stack(losses).sum()
        self.scaler.unscale_(self.optimizer)
        trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        norm = nn.utils.clip_grad_norm_(trained, self.config.schedule.clip_norm or float("inf"))
        # The only time in a step that the host waits for a GPU.
        return Outcome(*torch.stack([loss, norm]).tolist())

    def _mean_of(self, parts: Sequence[Sample]) -> Callable[[torch.Tensor], torch.Tensor]:
        """What truth_loss divides by: the mean of the pixels' weights, over the processes and the parts."""
        if len(parts) == 1:
            return self.processes.mean
        weights = [truth_weight(part["mask"], self.model.class_weights, self.model.drawn_every) for part in parts]
        total = self.processes.mean(torch.stack(weights).mean().to(self.processes.device))
        return lambda _: total

    def _exchanging(self, last: bool) -> AbstractContextManager[None]:
        """Several processes exchange gradients once a step, after the last part."""
        together = self.together
        return together.no_sync() if isinstance(together, DistributedDataParallel) and not last else nullcontext()

    def diverges(self, outcome: Outcome) -> bool:
        """Whether the update would make weights non-finite. `update` skips infinite gradients of fp16 and lowers the scale."""
        return not (math.isfinite(outcome.loss) and (math.isfinite(outcome.norm) or self.scaler.is_enabled()))

    def update(self, step: int) -> dict[float, float]:
        """Moves the weights along the gradients. step: from 0. Returns scale (see build_optimizer) -> learning rate."""
        set_learning_rate(self.optimizer, self.config.schedule, step, self.steps)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            self.average.update(self.model, step)
        return {group["scale"]: group["lr"] for group in self.optimizer.param_groups}

    @torch.no_grad()
    def not_finite(self, batch: Sample) -> list[int]:
        """The "index" of each of the batch's sentences that has no finite loss even alone."""
        alone = (_alone(batch, place) for place in range(len(batch["index"])))
        return [int(each["index"]) for each in alone if not self._loss(each, self.model, torch.clone).isfinite()]

    def _loss(self, batch: Sample, model: nn.Module, mean: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """In the training's precision. batch: on the CPU. mean: see truth_loss."""
        device = self.processes.device
        names = ("image", "mask", "attention", "owner")
        placed = {name: _placed(batch[name], device) for name in names if name in batch} | {"tokens": batch["tokens"]}
        with torch.autocast(device.type, DTYPES[self.config.precision], enabled=self.config.precision != "fp32"):
            return training_loss(model, placed, self.config.masking, batch["seed"].tolist(), mean)

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of this, see `checkpoints`. To be called in all processes."""
        return {
            "model": self.model.state_dict(),
            "average": self.average.model.state_dict() if self.average else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": self.processes.gather(_random_state(self.processes.device)),
        }

    def restore(self, content: dict[str, Any], path: Path) -> None:
        """Continues from `state()`, apart from the model's weights. Processes that were not there keep their seed.

        path: the checkpoint's. Raises UserError when a version with other parameter groups wrote it.
        """
        if self.average:
            self.average.model.load_state_dict(content["average"])
        try:
            self.optimizer.load_state_dict(content["optimizer"])
        except ValueError as error:
            raise UserError(
                f"{path}: another version wrote it, whose optimizer groups the parameters differently ({error}); continue with "
                "that version, or give another --output"
            ) from error
        self.scaler.load_state_dict(content["scaler"])
        if self.processes.rank < len(content["random"]):
            _restore_random_state(content["random"][self.processes.rank], self.processes.device)


def _random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """torch's, which dropout draws from; all else in training is drawn from seeds of its own."""
    states = {"cpu": torch.get_rng_state()}
    return {**states, "cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else states


def _restore_random_state(states: dict[str, torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


def _placed(values: torch.Tensor | Sequence[torch.Tensor], device: torch.device) -> torch.Tensor | ImageFeatures:
    """Images or their features on a device."""
    if isinstance(values, torch.Tensor):
        return values.to(device, non_blocking=True)
    return tuple(each.to(device, non_blocking=True) for each in values)


def _alone(batch: Sample, place: int) -> Sample:
    """One sentence of a batch with its image."""
    own = {name: values[place : place + 1] for name, values in batch.items() if name not in ("image", "owner")}
    image = int(batch["owner"][place]) if "owner" in batch else place
    images = batch["image"]
    if isinstance(images, torch.Tensor):
        return {**own, "image": images[image : image + 1]}
    return {**own, "image": tuple(each[image : image + 1] for each in images)}


def split_batch(batch: Sample, count: int) -> list[Sample]:
    """A batch as `count` batches with equally many images, which their sentences follow."""
    if count == 1:
        return [batch]
    images = batch["image"]
    image_parts = (
        images.chunk(count) if isinstance(images, torch.Tensor) else zip(*(each.chunk(count) for each in images), strict=True)
    )
    rest = {name: values.chunk(count) for name, values in batch.items() if name != "image"}
    parts = [{"image": part, **{name: values[at] for name, values in rest.items()}} for at, part in enumerate(image_parts)]
    for part in parts:
        if "owner" in part:
            part["owner"] = part["owner"] - part["owner"][0]
    return parts
