"""SAM's image encoder, arranged so that attention never holds all pairs of positions at once.

It computes what segment_anything's ImageEncoderViT computes, from the same weights, up to rounding. There, a global layer of
ViT-H writes and reads 4,096 x 4,096 logits for each of 16 heads several times, a gigabyte each time. With sam.py,
automatic_masks.py and prompt_decoder.py, the modules that import segment_anything.
"""

from __future__ import annotations

import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Attention, Block, get_rel_pos, window_partition, window_unpartition
from torch.nn.functional import pad, scaled_dot_product_attention

LOGITS_AT_ONCE = 2**21
"""Attention logits held at once on a CPU, unless a single row of queries needs more. What fits the caches is fastest."""

POSITIONS_AT_ONCE = 1024
"""Positions that pass the dense layers together on a CPU, for the same reason."""

Biases = tuple[torch.Tensor, torch.Tensor]
"""What is added to the logits of a query and each row of keys, [heads, h, w, h], and each column of keys, [heads, h, w, w]."""

CHANNELS_ALIGNED = 8
"""Fused attention kernels need a multiple of so many channels in half precision; others fall back to plain products."""


def encode_image(encoder: ImageEncoderViT, images: torch.Tensor) -> torch.Tensor:
    """What `encoder(images)` returns: prepared images [b, 3, S, S] -> [b, channels, grid, grid]."""
    hidden = encoder.patch_embed(images)
    if encoder.pos_embed is not None:
        hidden = hidden + encoder.pos_embed
    for block in encoder.blocks:
        hidden = _block(block, hidden)
    return encoder.neck(hidden.permute(0, 3, 1, 2))


def _block(block: Block, hidden: torch.Tensor) -> torch.Tensor:
    """A pre-norm block on [b, h, w, c], whose attention is in windows or global."""
    normed = block.norm1(hidden)
    if block.window_size:
        windows, padded = window_partition(normed, block.window_size)
        attended = window_unpartition(_attention(block.attn, windows), block.window_size, padded, hidden.shape[1:3])
    else:
        attended = _attention(block.attn, normed)
    hidden = hidden + attended
    parts = hidden.flatten(0, 2).split(POSITIONS_AT_ONCE if hidden.device.type == "cpu" else hidden.numel())
    return torch.cat([part + block.mlp(block.norm2(part)) for part in parts]).view(hidden.shape)


def _attention(attention: Attention, hidden: torch.Tensor) -> torch.Tensor:
    """Attention of all positions [b, h, w, c] to each other."""
    batch, height, width, _ = hidden.shape
    qkv = attention.qkv(hidden).view(batch, height, width, 3, attention.num_heads, -1)
    query, key, value = qkv.permute(3, 0, 4, 1, 2, 5).flatten(1, 2).unbind()  # each [b * heads, h, w, d]
    biases = None
    if attention.use_rel_pos:
        rows, columns = get_rel_pos(height, height, attention.rel_pos_h), get_rel_pos(width, width, attention.rel_pos_w)
        biases = query @ rows.transpose(1, 2), (query.transpose(1, 2) @ columns.transpose(1, 2)).transpose(1, 2)
    mix = _mix_fused if hidden.is_cuda else _mix_in_portions
    mixed = mix(query * attention.scale, key, value, biases)
    return attention.proj(mixed.unflatten(0, (batch, -1)).permute(0, 2, 3, 1, 4).flatten(3))


def _mix_fused(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, biases: Biases | None) -> torch.Tensor:
    """`_mix_in_portions` by one fused kernel, which keeps no logits.

    Relative positions become channels: with r and c a query's biases to the rows and columns of keys, and e one-hot vectors,
    q k + r[row] + c[column] = [q, r, c] [k, e_row, e_column]. A bias tensor would hold all pairs of positions again.
    """
    if biases is not None:
        heads, height, width, channels = key.shape
        of_row, of_column = (torch.eye(size, device=key.device, dtype=key.dtype) for size in (height, width))
        unused = (0, -(channels + height + width) % CHANNELS_ALIGNED)
        query = pad(torch.cat([query, *biases], -1), unused)
        place = torch.cat([of_row[:, None].expand(-1, width, -1), of_column.expand(height, -1, -1)], -1)
        key = pad(torch.cat([key, place.expand(heads, -1, -1, -1)], -1), unused)
    flat = (tensor.flatten(1, 2)[None] for tensor in (query, key, value))
    return scaled_dot_product_attention(*flat, scale=1.0)[0].view(value.shape)


def _mix_in_portions(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, biases: Biases | None) -> torch.Tensor:
    """What each position sees of the others, [heads, h, w, d] like scaled queries, keys and values; a portion at a time."""
    height, width = query.shape[1:3]
    keys, values = key.flatten(1, 2).transpose(1, 2), value.flatten(1, 2)
    mixed = torch.empty_like(query)
    for heads, rows in _portions(query.shape[:3], LOGITS_AT_ONCE):
        some = query[heads, rows]
        logits = torch.bmm(some.flatten(1, 2), keys[heads]).view(*some.shape[:3], height, width)
        if biases is not None:
            of_rows, of_columns = biases
            logits += of_rows[heads, rows, :, :, None]
            logits += of_columns[heads, rows, :, None]
        shares = logits.view(len(some), -1, height * width).softmax(-1)
        mixed[heads, rows] = torch.bmm(shares, values[heads]).view(some.shape)
    return mixed


def _portions(size: torch.Size, logits: int) -> list[tuple[slice, slice]]:
    """Slices of the heads and of the rows of queries that together have all queries; size: [heads, h, w]."""
    count, height, width = size
    of_row = width * height * width
    heads, rows = max(1, logits // (of_row * height)), min(height, max(1, logits // of_row))
    return [
        (slice(head, head + heads), slice(row, row + rows)) for head in range(0, count, heads) for row in range(0, height, rows)
    ]
