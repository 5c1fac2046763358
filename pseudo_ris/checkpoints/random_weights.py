"""Reproducible random weights at any size, for runs that try memory, speed and every code path before a download.

Each tensor depends on its model, name and shape only. The scales keep activations finite and let every later step find work:
the detector scores some boxes above 0.5, SAM's masks pass its own filters, the captioner ends some of its captions.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable

import torch
from torch import nn

# CutLER's class-score biases by cascade stage, and gains by layer: with these the full-size detector finds about five to
# fifteen objects in a photograph.
_CUTLER_CLASS_BIAS = {"0": (-4.5, 0.0), "1": (-3.7, 0.0), "2": (-1.6, 0.0)}
_CUTLER_GAINS = {
    "conv3": 0.5,
    "shortcut": 0.7,
    "fpn_lateral2": 0.7,
    "fpn_lateral3": 0.7,
    "fpn_lateral4": 0.7,
    "fpn_lateral5": 0.7,
    "fpn_output2": 0.25,
    "fpn_output3": 0.15,
    "fpn_output4": 0.8,
    "fpn_output5": 2.0,
    "anchor_deltas": 0.3,
    "cls_score": 0.5,
    "bbox_pred": 0.7,
    "deconv": 2.0,
    "predictor": 2.0,
}
# Mask logits far from 0, so that masks are stable; predicted IoUs on both sides of the usual thresholds.
_SAM_MASK_GAIN = 60.0
_SAM_IOU_BIAS = 0.5


def fill_at_random(model: nn.Module, kind: str) -> nn.Module:
    """Fills `model` in place, puts it in eval mode and returns it. kind: "cutler", "sam", "coca" or "clip"."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.copy_(random_tensor(kind, name, tensor))
    return model.eval()


def random_tensor(kind: str, name: str, like: torch.Tensor) -> torch.Tensor:
    """The tensor `name` of a `kind` of model, of the shape of `like`. Counters are 0; scalars keep the value of `like`."""
    if name.endswith("num_batches_tracked"):
        return torch.zeros_like(like)
    if like.ndim == 0 or not like.is_floating_point():
        return like
    z = torch.randn(like.shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
    return _RECIPES[kind](name, z)


def _cutler(name: str, z: torch.Tensor) -> torch.Tensor:
    layer, parameter = name.split(".")[-2:]
    if layer == "norm":
        return _batch_norm(parameter, z)
    if parameter == "bias":
        return torch.tensor(_CUTLER_CLASS_BIAS[name.split(".")[-3]]) if layer == "cls_score" else 0.05 * z
    return z * (_CUTLER_GAINS.get(layer, 1.0) * math.sqrt(2 / math.prod(z.shape[1:])))


def _sam(name: str, z: torch.Tensor) -> torch.Tensor:
    if "output_upscaling" in name and z.ndim == 4:
        # The same weight at each of a pixel's four successors, so that masks come out as areas and not as noise.
        z = z.mean((2, 3), keepdim=True).expand_as(z) * 2
    weight = _transformer(name, z)
    if "output_hypernetworks_mlps" in name and name.endswith("layers.2.weight"):
        return _SAM_MASK_GAIN * weight
    return weight + _SAM_IOU_BIAS if name == "mask_decoder.iou_prediction_head.layers.2.bias" else weight


def _clip(name: str, z: torch.Tensor) -> torch.Tensor:
    layer, parameter = name.split(".")[-2:] if "." in name else ("", name)
    if layer.startswith("bn") or (layer == "1" and "downsample" in name):
        return _batch_norm(parameter, z)
    # Rectified convolutions halve the variance.
    return math.sqrt(2) * _transformer(name, z) if z.ndim == 4 else _transformer(name, z)


def _batch_norm(parameter: str, z: torch.Tensor) -> torch.Tensor:
    return {"weight": 1 + 0.1 * z, "bias": 0.1 * z, "running_mean": 0.1 * z, "running_var": 1 + 0.25 * z.abs()}[parameter]


def _transformer(name: str, z: torch.Tensor) -> torch.Tensor:
    if name.endswith("bias"):
        return 0.05 * z
    table = name.removesuffix(".weight")
    if table.endswith(("embedding", "embed", "emb", "token", "tokens", "query")) or "point_embeddings" in table:
        return z
    if z.ndim == 1:
        return 1 + 0.1 * z
    # open_clip's projections are bare matrices [in, out]; everything else is [out, in, ...].
    fan = z.shape[0] if name.endswith(("proj", "projection")) else math.prod(z.shape[1:])
    return z / math.sqrt(fan)


_RECIPES: dict[str, Callable[[str, torch.Tensor], torch.Tensor]] = {
    "cutler": _cutler,
    "sam": _sam,
    "coca": _transformer,
    "clip": _clip,
}
