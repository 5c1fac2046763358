"""The fused attention kernels of CUDA: FlashAttention, memory-efficient attention and cuDNN's.

torch's own choice among them (by shapes, dtypes, bias and compute capability) stays in force; each then computes what the CPU's
scaled_dot_product_attention does, and its gradients from their definition in float32.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention

from tests.pretended_gpu.checks import common_device
from tests.pretended_gpu.memory import host_view, to_device

Tensor = torch.Tensor


class Attention(NamedTuple):
    """A fused attention. kernel: "flash", "efficient" or "cudnn". query, key: shapes [batch, heads, tokens, head width]."""

    kernel: str
    dtype: str
    query: tuple[int, ...]
    key: tuple[int, ...]
    bias: bool


COUNTS: collections.Counter[Attention] = collections.Counter()
"""How often each attention ran in this process, forward."""


def _attend(
    kernel: str,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    dropout: float,
    causal: bool,
    scale: float | None,
) -> tuple[Tensor, Tensor]:
    """Attention's output [batch, heads, tokens, head width] and the logsumexp [batch, heads, tokens] of its logits."""
    given = [tensor for tensor in (query, key, value, bias) if tensor is not None]
    device = common_device(f"{kernel} attention", (), given, pointwise=False)
    if dropout:
        raise NotImplementedError("a pretended GPU has no dropout inside a fused attention")
    dtype = str(query.dtype).removeprefix("torch.")
    COUNTS[Attention(kernel, dtype, tuple(query.shape), tuple(key.shape), bias is not None)] += 1
    q, k, v, b = (None if tensor is None else host_view(tensor) for tensor in (query, key, value, bias))
    out = scaled_dot_product_attention(q, k, v, attn_mask=b, is_causal=causal, scale=scale)
    out = out.transpose(1, 2).contiguous().transpose(1, 2)  # the layout in which the kernels write it
    return to_device(out, device), to_device(_logits(q, k, b, causal, scale).logsumexp(-1), device)


def _logits(query: Tensor, key: Tensor, bias: Tensor | None, causal: bool, scale: float | None) -> Tensor:
    """The scaled and biased logits of an attention on the CPU, float32."""
    logits = (query.float() @ key.float().transpose(-1, -2)) * _scale(query, scale)
    if causal:
        logits = logits.masked_fill(torch.ones(logits.shape[-2:], dtype=torch.bool).triu(1), -torch.inf)
    return logits if bias is None else logits + bias.float()


def _scale(query: Tensor, scale: float | None) -> float:
    return query.shape[-1] ** -0.5 if scale is None else scale


def _gradients(
    grad_out: Tensor, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, causal: bool, scale: float | None
) -> tuple[list[Tensor], Tensor]:
    """Gradients of query, key and value on their device, and of the logits on the CPU."""
    g, q, k, v = (host_view(tensor).float() for tensor in (grad_out, query, key, value))
    shares = _logits(q, k, None if bias is None else host_view(bias), causal, scale).softmax(-1)
    grad_shares = g @ v.transpose(-1, -2)
    grad_logits = shares * (grad_shares - (grad_shares * shares).sum(-1, keepdim=True))
    factor = _scale(q, scale)
    gradients = (grad_logits @ k * factor, grad_logits.transpose(-1, -2) @ q * factor, shares.transpose(-1, -2) @ g)
    return [to_device(gradient.to(query.dtype), query.device) for gradient in gradients], grad_logits


def _empty(like: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty(0, dtype=dtype, device=like.device)


def _random_state(like: Tensor, dtype: torch.dtype, *shape: int) -> Tensor:
    """The seed and offset of a dropout that does not happen."""
    return torch.zeros(shape, dtype=dtype, device=like.device)


def efficient(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_bias: Tensor | None,
    compute_log_sumexp: bool,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """aten::_scaled_dot_product_efficient_attention."""
    out, sums = _attend("efficient", query, key, value, attn_bias, dropout_p, is_causal, scale)
    return out, sums, _random_state(query, torch.int64), _random_state(query, torch.int64)


def efficient_backward(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_bias: Tensor | None,
    out: Tensor,
    logsumexp: Tensor,
    philox_seed: Tensor,
    philox_offset: Tensor,
    dropout_p: float,
    grad_input_mask: Sequence[bool],
    is_causal: bool = False,
    *,
    scale: float | None = None,
) -> tuple[Tensor | None, ...]:
    """aten::_scaled_dot_product_efficient_attention_backward."""
    gradients, grad_logits = _gradients(grad_out, query, key, value, attn_bias, is_causal, scale)
    grad_bias = None
    if attn_bias is not None and grad_input_mask[3]:
        grad_bias = to_device(grad_logits.sum_to_size(attn_bias.shape).to(attn_bias.dtype), query.device)
    return *gradients, grad_bias


def flash(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    return_debug_mask: bool = False,
    *,
    scale: float | None = None,
) -> tuple[object, ...]:
    """aten::_scaled_dot_product_flash_attention."""
    out, sums = _attend("flash", query, key, value, None, dropout_p, is_causal, scale)
    nothing, state = _empty(query, torch.int32), _random_state(query, torch.uint64, 2)
    tokens = query.shape[2], key.shape[2]
    return out, sums, nothing, nothing.clone(), *tokens, state, _random_state(query, torch.uint64), _empty(query, query.dtype)


def flash_backward(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    cum_seq_q: Tensor,
    cum_seq_k: Tensor,
    max_q: int,
    max_k: int,
    dropout_p: float,
    is_causal: bool,
    philox_seed: Tensor,
    philox_offset: Tensor,
    *,
    scale: float | None = None,
) -> tuple[Tensor, ...]:
    """aten::_scaled_dot_product_flash_attention_backward."""
    return tuple(_gradients(grad_out, query, key, value, None, is_causal, scale)[0])


def cudnn(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_bias: Tensor | None,
    compute_log_sumexp: bool,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    return_debug_mask: bool = False,
    *,
    scale: float | None = None,
) -> tuple[object, ...]:
    """aten::_scaled_dot_product_cudnn_attention."""
    out, sums = _attend("cudnn", query, key, value, attn_bias, dropout_p, is_causal, scale)
    nothing, state = _empty(query, torch.int32), _random_state(query, torch.int64)
    tokens = query.shape[2], key.shape[2]
    return out, sums[..., None], nothing, nothing.clone(), *tokens, state, state.clone(), _empty(query, query.dtype)


def cudnn_backward(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    philox_seed: Tensor,
    philox_offset: Tensor,
    attn_bias: Tensor | None,
    cum_seq_q: Tensor,
    cum_seq_k: Tensor,
    max_q: int,
    max_k: int,
    dropout_p: float,
    is_causal: bool,
    *,
    scale: float | None = None,
) -> tuple[Tensor, ...]:
    """aten::_scaled_dot_product_cudnn_attention_backward."""
    return tuple(_gradients(grad_out, query, key, value, attn_bias, is_causal, scale)[0])


KERNELS: dict[str, Callable] = {
    "aten::_scaled_dot_product_efficient_attention": efficient,
    "aten::_scaled_dot_product_efficient_attention_backward": efficient_backward,
    "aten::_scaled_dot_product_flash_attention": flash,
    "aten::_scaled_dot_product_flash_attention_backward": flash_backward,
    "aten::_scaled_dot_product_cudnn_attention": cudnn,
    "aten::_scaled_dot_product_cudnn_attention_backward": cudnn_backward,
}
"""The kernels by the operators' full names."""
