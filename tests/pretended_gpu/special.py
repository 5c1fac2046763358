"""Operators that exist on CUDA only, or that take more there than on a CPU: cuDNN's, softmax of half precision, NMS."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from tests.pretended_gpu.checks import common_device
from tests.pretended_gpu.memory import host_view, to_device

Tensor = torch.Tensor
aten = torch.ops.aten


def cudnn_convolution(
    self: Tensor,
    weight: Tensor,
    padding: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    benchmark: bool,
    deterministic: bool,
    allow_tf32: bool,
) -> Tensor:
    """aten::cudnn_convolution."""
    return _convolution(self, weight, padding, stride, dilation, groups, False, [0] * len(stride))


def cudnn_convolution_transpose(
    self: Tensor,
    weight: Tensor,
    padding: Sequence[int],
    output_padding: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    benchmark: bool,
    deterministic: bool,
    allow_tf32: bool,
) -> Tensor:
    """aten::cudnn_convolution_transpose."""
    return _convolution(self, weight, padding, stride, dilation, groups, True, output_padding)


def _convolution(
    image: Tensor,
    weight: Tensor,
    padding: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    transposed: bool,
    output_padding: Sequence[int],
) -> Tensor:
    common_device("cudnn_convolution", (), (image, weight), pointwise=False)
    x, w = host_view(image), host_view(weight)
    result = aten.convolution(x, w, None, stride, padding, dilation, transposed, output_padding, groups)
    return to_device(result, image.device)


def cudnn_batch_norm(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    epsilon: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """aten::cudnn_batch_norm; its fourth result, what cuDNN reserves for the backward pass, is empty."""
    given = (input, weight, bias, running_mean, running_var)
    common_device("cudnn_batch_norm", (), (tensor for tensor in given if tensor is not None), pointwise=False)
    results = aten.native_batch_norm(*map(_optional_view, given), training, momentum, epsilon)
    out, mean, inverse = (to_device(tensor, input.device) for tensor in results)
    return out, mean, inverse, torch.empty(0, dtype=torch.uint8, device=input.device)


def cudnn_batch_norm_backward(
    input: Tensor,
    grad_output: Tensor,
    weight: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    save_mean: Tensor | None,
    save_var: Tensor | None,
    epsilon: float,
    reserve: Tensor,
) -> tuple[Tensor, ...]:
    """aten::cudnn_batch_norm_backward."""
    given = (grad_output, input, weight, running_mean, running_var, save_mean, save_var)
    gradients = aten.native_batch_norm_backward(*map(_optional_view, given), True, epsilon, [True, True, True])
    return tuple(to_device(gradient, input.device) for gradient in gradients)


def nms(dets: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """torchvision::nms."""
    device = common_device("nms", (), (dets, scores), pointwise=False)
    return to_device(torch.ops.torchvision.nms(host_view(dets), host_view(scores), iou_threshold), device)


def _softmax(operator: Callable) -> Callable:
    def softmax(self: Tensor, dim: int, half_to_float: bool) -> Tensor:
        logits = host_view(self)
        return to_device(operator(logits.float() if half_to_float else logits, dim, False), self.device)

    return softmax


def _softmax_backward(operator: Callable) -> Callable:
    def softmax_backward(grad_output: Tensor, output: Tensor, dim: int, input_dtype: torch.dtype) -> Tensor:
        device = common_device("_softmax_backward_data", (), (grad_output, output), pointwise=False)
        gradient, shares = host_view(grad_output), host_view(output)
        return to_device(operator(gradient, shares, dim, gradient.dtype).to(input_dtype), device)

    return softmax_backward


def _optional_view(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else host_view(tensor)


SPECIAL: dict[str, Callable] = {
    "aten::_softmax": _softmax(aten._softmax.default),
    "aten::_log_softmax": _softmax(aten._log_softmax.default),
    "aten::_softmax_backward_data": _softmax_backward(aten._softmax_backward_data.default),
    "aten::_log_softmax_backward_data": _softmax_backward(aten._log_softmax_backward_data.default),
    "aten::cudnn_convolution": cudnn_convolution,
    "aten::cudnn_convolution_transpose": cudnn_convolution_transpose,
    "aten::cudnn_batch_norm": cudnn_batch_norm,
    "aten::cudnn_batch_norm_backward": cudnn_batch_norm_backward,
    "torchvision::nms": nms,
}
"""The kernels by the operators' full names."""
