"""What RIS models are trained with: weighted pixel cross-entropy, and MaskRIS's distortion-aware learning."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional

from pseudo_ris.ris.config import MaskingConfig
from pseudo_ris.ris.models.base import RisModel
from pseudo_ris.ris.training.masking import distort

PLAIN_WEIGHT = 0.5
"""Of the plain input's loss beside the distorted one's (MaskRIS, sec. 3.3)."""


def training_loss(
    model: nn.Module,
    batch: Mapping[str, torch.Tensor],
    masking: MaskingConfig,
    seeds: Sequence[int],
    mean: Callable[[torch.Tensor], torch.Tensor] = torch.clone,
) -> torch.Tensor:
    """Loss of a batch of training samples, a scalar; the mean over processes is the loss of their joint batch.

    With distortion-aware learning: half from the plain input and the ground truth, half from the distorted input and what was
    predicted on the plain one, which gets no gradient from there. Without: from the distorted input and the ground truth alone.

    model: a RisModel, or one in DistributedDataParallel. batch: see PairsDataset, on the model's device. seeds: of each
    sample's distortion. mean: see truth_loss.
    """
    of: RisModel = getattr(model, "module", model)
    images, tokens, attention = batch["image"], batch["tokens"], batch["attention"]

    def from_truth(logits: torch.Tensor) -> torch.Tensor:
        return truth_loss(of.upsampled(logits, images.shape[-1]), batch["mask"], of.class_weights, mean)

    if not (masking.image or masking.text):
        return from_truth(model(images, tokens, attention))
    hidden_images, hidden_tokens = distort(images, tokens, of.tokenizer, masking, seeds)
    if not masking.distortion_aware:
        return from_truth(model(hidden_images, hidden_tokens, attention))
    # One pass over both, so that DistributedDataParallel sees one call a step.
    both = model(torch.cat([images, hidden_images]), torch.cat([tokens, hidden_tokens]), attention.repeat(2, 1))
    plain, distorted = both.chunk(2)
    from_prediction = prediction_loss(distorted, plain.detach(), of.class_weights)
    return PLAIN_WEIGHT * from_truth(plain) + (1 - PLAIN_WEIGHT) * from_prediction


def truth_loss(
    logits: torch.Tensor,
    truth: torch.Tensor,
    weights: tuple[float, float],
    mean: Callable[[torch.Tensor], torch.Tensor] = torch.clone,
) -> torch.Tensor:
    """Cross-entropy of all pixels of a batch, each weighted by its class, divided by the sum of these weights.

    For a truth of 0 and 1 this is torch's cross_entropy with class weights; where a pixel is partly the object's, losses and
    weights of the two classes are mixed. Divided by the mean of the processes' weights, the mean of their losses is that of the
    whole batch, as MaskRIS's release has it on one GPU.

    logits: float [B, 2, S, S]. truth: share of the pixel that is the object's, float [B, S, S]. weights: of background and
    foreground. mean: of a tensor over the processes that share the batch, see Processes.mean; for a single one, the tensor.
    """
    target = torch.stack([1 - truth, truth], dim=1)
    return _losses(logits, target, weights).sum() / mean(_weighted(target, weights).sum())


def prediction_loss(logits: torch.Tensor, predicting: torch.Tensor, weights: tuple[float, float]) -> torch.Tensor:
    """Cross-entropy with a prediction, classes weighted, at the resolution of `logits`: mean over pixels, not over weights.

    logits, predicting: float [B, 2, H, W]; the softmax of the latter is what the former should say. weights: of background and
    foreground. Source: MaskRIS (sec. 3.3); the resolution and the divisor are its release's.
    """
    return _losses(logits, predicting.float().softmax(1), weights).mean()


def _losses(logits: torch.Tensor, target: torch.Tensor, weights: tuple[float, float]) -> torch.Tensor:
    """Weighted cross-entropy of each pixel, float32 [B, H, W]. target: probabilities of the classes, float [B, 2, H, W]."""
    return -(_weighted(target, weights) * functional.log_softmax(logits.float(), dim=1)).sum(1)


def _weighted(target: torch.Tensor, weights: tuple[float, float]) -> torch.Tensor:
    """Each class's probability times its weight: float [B, 2, H, W]."""
    return torch.stack([weight * share for weight, share in zip(weights, target.unbind(1), strict=True)], dim=1)
