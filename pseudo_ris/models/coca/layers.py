"""open_clip's attention blocks as decoding runs them: one position at a time, with weights laid out once."""

from __future__ import annotations

from functools import cache

import torch
from torch import nn
from torch.nn.functional import linear

# Smaller weights are multiplied in less time than the blocked product takes to get ready for a new number of rows.
BLOCKED_SIZE = 2**18

# The dense layers' intermediate results of so many entries stay in a CPU's cache.
ENTRIES_AT_ONCE = 1024


class Product:
    """x -> activation(x @ weight.T + bias), for a weight [out, in] that stays what it is.

    On a CPU a large weight is kept in oneDNN's blocked layout beside the original one. It would otherwise be rearranged at
    every product, which takes a quarter to half of the time when x has few rows. There GELU is part of the product: on its own
    it takes another 40% of the time when its input has left the cache.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None, activation: nn.Module | None = None) -> None:
        self._weight, self._bias = weight.detach(), None if bias is None else bias.detach()
        self._activation = activation or nn.Identity()
        self._attribute, self._variant = "none", ""
        self._blocked = weight.device.type == "cpu" and weight.numel() >= BLOCKED_SIZE and _can_block(weight.dtype)
        if self._blocked:
            self._weight = torch.ops.mkldnn._reorder_linear_weight(self._weight.contiguous(), None)
            if isinstance(activation, nn.GELU):
                self._attribute, self._variant, self._activation = "gelu", activation.approximate, nn.Identity()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if not self._blocked:
            return self._activation(linear(x, self._weight, self._bias))
        product = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, self._attribute, [], self._variant)
        return self._activation(product)


@cache
def _can_block(dtype: torch.dtype) -> bool:
    """Whether this torch and this CPU have the blocked products, which torch offers to its own compiler only."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


class Block:
    """A pre-norm residual block of open_clip: attention, then two dense layers.

    sees_image: its attention is a cross-attention, whose keys and values come from a crop (see `CocaCaptioner.image_keys`);
    then `project_in` gives queries only, otherwise queries, keys and values.
    """

    def __init__(self, block: nn.Module, sees_image: bool) -> None:
        attention, mlp = block.attn, block.mlp
        inputs = attention.embed_dim * (1 if sees_image else 3)
        self.heads: int = attention.num_heads
        self.norm = block.ln_1
        self.project_in = Product(attention.in_proj_weight[:inputs], attention.in_proj_bias[:inputs])
        self._project_out = Product(attention.out_proj.weight, attention.out_proj.bias)
        self._scale = block.ls_1
        self._dense_norm, self._dense_scale = block.ln_2, block.ls_2
        self._widen = Product(mlp.c_fc.weight, mlp.c_fc.bias, mlp.gelu)
        self._narrow = Product(mlp.c_proj.weight, mlp.c_proj.bias)

    def finish(self, hidden: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        """The block's result from its input and what its attention has mixed, both [entries, width]."""
        if hidden.device.type != "cpu" or len(hidden) <= ENTRIES_AT_ONCE:
            return self._finish(hidden, mixed)
        parts = zip(hidden.split(ENTRIES_AT_ONCE), mixed.split(ENTRIES_AT_ONCE), strict=True)
        return torch.cat([self._finish(*part) for part in parts])

    def _finish(self, hidden: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        hidden = hidden + self._scale(self._project_out(mixed))
        return hidden + self._dense_scale(self._narrow(self._widen(self._dense_norm(hidden))))


class DecodingLayers:
    """From a token's embedding to next-token logits.

    text_tower: blocks that see the prefix only. own, cross: the decoder's layers, each a self-attention and a cross-attention
    block. norm: after the last layer.
    """

    def __init__(self, text: nn.Module, decoder: nn.Module) -> None:
        self.text_tower = [Block(block, False) for block in text.transformer.resblocks]
        self.own = [Block(block, False) for block in decoder.resblocks]
        self.cross = [Block(block, True) for block in decoder.cross_attn]
        self.norm = decoder.ln_final
        self._project = Product(decoder.text_projection.T)

    def project(self, hidden: torch.Tensor) -> torch.Tensor:
        """Last hidden states, float32 [rows, width], -> logits, float32 [rows, V]; under autocast they have been fp16."""
        return self._project(hidden).float()
