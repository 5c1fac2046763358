"""What RIS models are trained with: weighted pixel cross-entropy, and MaskRIS's distortion-aware learning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional

from pseudo_ris.ris.config import MaskingConfig
from pseudo_ris.ris.masking import distort
from pseudo_ris.ris.model import FOREGROUND, RisModel

PLAIN_WEIGHT = 0.5
"""Of the plain input's loss beside the distorted one's (MaskRIS, sec. 3.3)."""


def training_loss(
    model: nn.Module, batch: Mapping[str, torch.Tensor], masking: MaskingConfig, seeds: Sequence[int]
) -> torch.Tensor:
    """Loss of a batch of training samples, a scalar.

    With distortion-aware learning: half from the plain input and the ground truth, half from the distorted input and what was
    predicted on the plain one, which gets no gradient from there. Without: from the distorted input and the ground truth alone.

    model: a RisModel, or one in DistributedDataParallel. batch: see PairsDataset, on the model's device. seeds: of each
    sample's distortion.
    """
    of: RisModel = getattr(model, "module", model)
    images, tokens, attention = batch["image"], batch["tokens"], batch["attention"]
    truth = batch["mask"]
    if not (masking.image or masking.text):
        return pixel_cross_entropy(model(images, tokens, attention), truth, of.class_weights)
    hidden_images, hidden_tokens = distort(images, tokens, of.tokenizer, masking, seeds)
    if not masking.distortion_aware:
        return pixel_cross_entropy(model(hidden_images, hidden_tokens, attention), truth, of.class_weights)
    # One pass over both, so that DistributedDataParallel sees one call a step.
    both = model(torch.cat([images, hidden_images]), torch.cat([tokens, hidden_tokens]), attention.repeat(2, 1))
    plain, distorted = both.chunk(2)
    predicted = plain.detach().softmax(1)[:, FOREGROUND]
    return PLAIN_WEIGHT * pixel_cross_entropy(plain, truth, of.class_weights) + (1 - PLAIN_WEIGHT) * pixel_cross_entropy(
        distorted, predicted, of.class_weights
    )


def pixel_cross_entropy(logits: torch.Tensor, target: torch.Tensor, weights: tuple[float, float]) -> torch.Tensor:
    """Cross-entropy of pixels, each weighted by its class and divided by the sum of its sample's weights; mean over samples.

    For one sample with a target of 0 and 1 this is torch's cross_entropy with class weights; soft ones mix the two classes'
    losses and weights. The mean over samples makes two processes with half a batch each equal one with all of it.

    logits: float [B, 2, H, W]. target: probability of the foreground, float [B, H, W]. weights: of background and foreground.
    """
    log_background, log_foreground = functional.log_softmax(logits.float(), dim=1).unbind(1)
    background, foreground = weights[0] * (1 - target), weights[1] * target
    losses = -(background * log_background + foreground * log_foreground).sum((1, 2))
    return (losses / (background + foreground).sum((1, 2))).mean()
