"""Trains the embedded CutLER, a tiny Cascade Mask R-CNN, on the visible masks of drawn objects."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import nn

from pseudo_ris.lab.detection_batches import DetectionBatch, SceneSource
from pseudo_ris.lab.detection_losses import detection_loss
from pseudo_ris.lab.fit import CPU, autocast, fit, one_ahead
from pseudo_ris.models.cutler.cascade_rcnn import ARCHITECTURES, CascadeMaskRCNN
from pseudo_ris.world.scene_set import SceneSet

STEPS = 3300
BATCH = 8
LEARNING_RATE = 1.5e-3
STATISTICS_BATCHES = 40


def train_cutler(scenes: Sequence[SceneSet], seed: int, steps: int | None = None, device: torch.device = CPU) -> nn.Module:
    """Trains a class-agnostic detector of drawn objects.

    scenes: sets of training scenes, sampled in proportion to their lengths. steps: None for the steps of the embedded weights.
    Returns the model on `device`, in eval mode. Scenes, seed and steps determine the weights on the same kind of machine.
    """
    torch.manual_seed(seed)
    model = CascadeMaskRCNN(ARCHITECTURES["demo"]).to(device)
    source = SceneSource(scenes)

    @one_ahead
    def batch_of_step(step: int) -> tuple[DetectionBatch, int]:
        rng = np.random.default_rng((seed, step))
        return source.draw(rng, BATCH), int(rng.integers(2**62))

    def loss_of_step(step: int) -> torch.Tensor:
        batch, sampling_seed = batch_of_step(step)
        batch = batch.to(device)
        generator = torch.Generator().manual_seed(sampling_seed)
        with autocast(device):
            return detection_loss(model, batch, generator)

    fit(model, loss_of_step, name="cutler", steps=steps or STEPS, learning_rate=LEARNING_RATE)
    batches = (source.draw(np.random.default_rng((seed, 0, index)), BATCH).to(device) for index in range(STATISTICS_BATCHES))
    return measure_statistics(model, batches)


@torch.no_grad()
def measure_statistics(model: CascadeMaskRCNN, batches: Iterable[DetectionBatch]) -> CascadeMaskRCNN:
    """Replaces the running statistics of batch normalisation by the mean over `batches`.

    The running statistics belong to the last weights of the training, not to the average that the model holds.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # plain mean
    model.train()
    for batch in batches:
        model.backbone(model.normalize(batch.images))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    return model.eval()
