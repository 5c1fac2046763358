"""Training losses: weighted pixel cross-entropy, and distortion-aware learning of MaskRIS."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional

from pseudo_ris.io.device import on_device
from pseudo_ris.ris.config import MaskingConfig
from pseudo_ris.ris.models.base import ImageFeatures, RisModel, Supervision
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
    A model's own loss (see RisModel.learn) is added, as the mean over all sentences.

    model: a RisModel, or one in DistributedDataParallel. batch: see PairsDataset and GroupsDataset, on the model's device
    but for the tokens, which words are hidden in on the CPU.
    seeds: of each sentence's distortion. mean: see truth_loss.
    """
    of: RisModel = getattr(model, "module", model)
    images, attention, owners, truth = batch["image"], batch["attention"], batch.get("owner"), batch["mask"]
    device, count = truth.device, len(truth)
    tokens = on_device(batch["tokens"], device)
    rows = None if of.drawn_every == 1 else torch.arange(0, count, of.drawn_every, device=device)

    def from_truth(logits: torch.Tensor) -> torch.Tensor:
        wanted = truth if rows is None else truth[rows]
        return truth_loss(of.upsampled(logits, truth.shape[-1]), wanted, of.class_weights, mean)

    if not (masking.image or masking.text):
        logits, auxiliary = model(images, tokens, attention, owners, Supervision(truth, rows))
        return from_truth(logits) + auxiliary.mean()
    hidden_images, hidden_tokens = distort(images, batch["tokens"], of.tokenizer, masking, seeds)
    hidden_tokens = on_device(hidden_tokens, device)
    if not masking.distortion_aware:
        logits, auxiliary = model(hidden_images, hidden_tokens, attention, owners, Supervision(truth, rows))
        return from_truth(logits) + auxiliary.mean()
    # One pass over both, so that DistributedDataParallel sees one call a step.
    both = _joined(images, hidden_images)
    twice = Supervision(truth.repeat(2, 1, 1), None if rows is None else torch.cat([rows, rows + count]))
    both_owners = None if owners is None else torch.cat([owners, owners + _count(images)])
    logits, auxiliary = model(both, torch.cat([tokens, hidden_tokens]), attention.repeat(2, 1), both_owners, twice)
    plain, distorted = logits.chunk(2)
    from_prediction = prediction_loss(distorted, plain.detach(), of.class_weights)
    return PLAIN_WEIGHT * from_truth(plain) + (1 - PLAIN_WEIGHT) * from_prediction + auxiliary.mean()


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


def truth_weight(truth: torch.Tensor, weights: tuple[float, float], drawn_every: int = 1) -> torch.Tensor:
    """The sum of the pixels' weights that truth_loss divides by, a scalar. For the arguments see there and RisModel."""
    drawn = truth[::drawn_every]
    return _weighted(torch.stack([1 - drawn, drawn], dim=1), weights).sum()


def prediction_loss(logits: torch.Tensor, predicting: torch.Tensor, weights: tuple[float, float]) -> torch.Tensor:
    """Cross-entropy with a prediction, classes weighted, at the resolution of `logits`: mean over pixels, not over weights.

    logits, predicting: float [B, 2, H, W]; the softmax of the latter is what the former should say. weights: of background and
    foreground. Source: MaskRIS (sec. 3.3); the resolution and the divisor are its release's.
    """
    return _losses(logits, predicting.float().softmax(1), weights).mean()


def _losses(logits: torch.Tensor, target: torch.Tensor, weights: tuple[float, float]) -> torch.Tensor:
    """Weighted cross-entropy of each pixel, float32 [B, H, W]. target: probabilities of the classes, float [B, 2, H, W]."""
    return -(_weighted(target, weights) * functional.log_softmax(logits.float(), dim=1)).sum(1)


def _joined(images: torch.Tensor | ImageFeatures, others: torch.Tensor | ImageFeatures) -> torch.Tensor | ImageFeatures:
    """Two batches of images, or of their features, as one."""
    if isinstance(images, torch.Tensor):
        return torch.cat([images, others])
    return tuple(torch.cat(pair) for pair in zip(images, others, strict=True))


def _count(images: torch.Tensor | ImageFeatures) -> int:
    return len(images if isinstance(images, torch.Tensor) else images[0])


def _weighted(target: torch.Tensor, weights: tuple[float, float]) -> torch.Tensor:
    """Each class's probability times its weight: float [B, 2, H, W]."""
    return torch.stack([weight * share for weight, share in zip(weights, target.unbind(1), strict=True)], dim=1)
