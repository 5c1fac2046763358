"""Incremental decoding with CoCa: one new token for every row, everything else from caches.

A *row* is a caption in the making; its *prefix* is its tokens so far. A *viewer* of a row is a crop the prefix is read with.
What a prefix means to a viewer does not depend on the row, so rows with the same prefix share all work: the text tower runs
once per distinct prefix, the decoder once per distinct (crop, prefix), a *cell*.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import linear, scaled_dot_product_attention

from pseudo_ris.captions.coca import CocaCaptioner, CocaImages

Cache = list[tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class LastHidden:
    """The decoder's final hidden states at the last position of every row's prefix.

    values: float [cells, width], layer-normalised; `values @ captioner.projection` are the next-token logits.
    cells: int64 [rows, crops], the entry of `values` for a row and a crop; meaningless where the crop is no viewer.
    """

    values: torch.Tensor
    cells: torch.Tensor


class PrefixDecoder:
    """Reads the prefixes of R rows with the crops in `images`, one token at a time.

    viewers: bool [R, crops], the crops each row is read with.
    """

    def __init__(self, captioner: CocaCaptioner, images: CocaImages, viewers: torch.Tensor) -> None:
        text, decoder = captioner.model.text, captioner.model.text_decoder
        self._text, self._decoder, self._images = text, decoder, images
        self._vocabulary, self._pad = captioner.vocabulary, captioner.pad
        # The decoder's first self-attention has not met the image yet, so it belongs to the prefix, not to the cell.
        self._prefix_blocks = [*text.transformer.resblocks, decoder.resblocks[0]]
        self._length = 0
        self._viewers = viewers
        crops = len(images.latents)
        # Before the first token all rows share the empty prefix, which each crop holds in its slot 0.
        self._prefix_of_row = torch.zeros(len(viewers), dtype=torch.long, device=viewers.device)
        self._slots = torch.zeros(crops, 1, dtype=torch.long, device=viewers.device)
        self._slot_count = 1
        self._prefix_cache = [_empty_cache(1, block) for block in self._prefix_blocks]
        self._cell_cache = [_empty_cache(crops, block) for block in decoder.resblocks[1:]]
        self._visible = torch.ones(1, 1, dtype=torch.bool, device=viewers.device)

    @torch.inference_mode()
    def step(self, tokens: torch.Tensor, parents: torch.Tensor) -> LastHidden:
        """Appends one token to each row and reads it.

        tokens: int64 [R'], the new tokens. parents: int64 [R'], the previous step's row each new row continues, so that
        rows can end (left out) or branch (named more than once).
        """
        extended = self._prefix_of_row[parents] * self._vocabulary + tokens
        distinct, self._prefix_of_row = extended.unique(return_inverse=True)
        self._viewers = self._viewers[parents]
        parent_prefix, token = distinct // self._vocabulary, distinct % self._vocabulary
        text = self._read_prefixes(token, parent_prefix)
        grid, parent_cells = self._arrange_cells(parent_prefix)
        hidden = self._read_cells(text[grid], parent_cells)
        self._length += 1
        offsets = torch.arange(len(grid), device=grid.device) * self._slot_count
        return LastHidden(hidden.flatten(0, 1), (self._slots + offsets[:, None])[:, self._prefix_of_row].T)

    def _read_prefixes(self, token: torch.Tensor, parent: torch.Tensor) -> torch.Tensor:
        """Hidden states [P, width] of the P distinct prefixes after the blocks that do not see the image."""
        hidden = self._text.token_embedding(token) + self._text.positional_embedding[self._length]
        visible = self._extend_visible(token, parent)
        for number, block in enumerate(self._prefix_blocks):
            in_text_tower = number < len(self._prefix_blocks) - 1
            cache = _select(self._prefix_cache[number], parent)
            hidden, self._prefix_cache[number] = _self_attention(block, hidden, cache, visible if in_text_tower else None)
            hidden = _feed_forward(block, hidden)
        return hidden

    def _extend_visible(self, token: torch.Tensor, parent: torch.Tensor) -> torch.Tensor | None:
        """Which positions [P, length + 1] the text tower may look at; None when all.

        open_clip's CoCa hides the position after a pad token, id 0 (meant for the pad token itself, but off by one, and the
        released weights were trained with it). Only a beam that picks id 0 as a word ever notices.
        """
        visible = self._visible[parent]
        self._visible = torch.cat([visible, (token != self._pad)[:, None]], 1)
        return None if visible.all() else visible

    def _arrange_cells(self, parent_prefix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Gives every (crop, prefix) that some row needs a slot of its crop.

        Returns the prefix in each slot and the flat index of its previous cell, both int64 [crops, slots]; crops with fewer
        prefixes than others are filled up with prefix 0.
        """
        prefixes = len(parent_prefix)
        needed = torch.zeros(prefixes, self._viewers.shape[1], device=self._viewers.device)
        needed = needed.index_add(0, self._prefix_of_row, self._viewers.to(needed.dtype)).T > 0
        slots = (needed.cumsum(1) - 1).clamp(min=0)
        crop, prefix = needed.nonzero(as_tuple=True)
        grid = torch.zeros(len(needed), int(needed.sum(1).max()), dtype=torch.long, device=needed.device)
        grid[crop, slots[crop, prefix]] = prefix
        crops = torch.arange(len(needed), device=needed.device)[:, None]
        parent_cells = crops * self._slot_count + self._slots[crops, parent_prefix[grid]]
        self._slots, self._slot_count = slots, grid.shape[1]
        return grid, parent_cells

    def _read_cells(self, hidden: torch.Tensor, parent_cells: torch.Tensor) -> torch.Tensor:
        """Hidden states [crops, slots, width] through the rest of the decoder."""
        shape = hidden.shape
        for number, (block, look) in enumerate(zip(self._decoder.resblocks, self._decoder.cross_attn, strict=True)):
            if number:
                cache = _select(self._cell_cache[number - 1], parent_cells.flatten())
                hidden, cache = _self_attention(block, hidden.flatten(0, 1), cache, None)
                self._cell_cache[number - 1] = cache
                hidden = _feed_forward(block, hidden).view(shape)
            hidden = _feed_forward(look, _cross_attention(look, hidden, *self._images.keys[number]))
        return self._decoder.ln_final(hidden)


def _empty_cache(count: int, block: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values [count, length 0, width] of `block`."""
    weight = block.attn.in_proj_weight
    return weight.new_zeros(count, 0, weight.shape[1]), weight.new_zeros(count, 0, weight.shape[1])


def _select(cache: tuple[torch.Tensor, torch.Tensor], rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return cache[0].index_select(0, rows), cache[1].index_select(0, rows)


def _self_attention(
    block: nn.Module, hidden: torch.Tensor, cache: tuple[torch.Tensor, torch.Tensor], visible: torch.Tensor | None
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    """One new position [B, width] of a pre-norm self-attention, residual included, and the cache extended by it.

    visible: bool [B, length], positions that may be looked at, or None for all.
    """
    attention = block.attn
    heads = (attention.num_heads, -1)
    query, key, value = linear(block.ln_1(hidden), attention.in_proj_weight, attention.in_proj_bias).chunk(3, -1)
    keys, values = torch.cat([cache[0], key[:, None]], 1), torch.cat([cache[1], value[:, None]], 1)
    mixed = scaled_dot_product_attention(
        query.unflatten(-1, heads)[:, :, None],
        keys.unflatten(-1, heads).transpose(1, 2),
        values.unflatten(-1, heads).transpose(1, 2),
        attn_mask=None if visible is None else visible[:, None, None],
    )
    return hidden + block.ls_1(attention.out_proj(mixed.flatten(1))), (keys, values)


def _cross_attention(block: nn.Module, hidden: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Pre-norm cross-attention, residual included: hidden [crops, slots, width], keys [crops, heads, tokens, head width]."""
    attention = block.attn
    width = hidden.shape[-1]
    query = linear(block.ln_1(hidden), attention.in_proj_weight[:width], attention.in_proj_bias[:width])
    mixed = scaled_dot_product_attention(query.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2), keys, values)
    return hidden + block.ls_1(attention.out_proj(mixed.transpose(1, 2).flatten(2)))


def _feed_forward(block: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    return hidden + block.ls_2(block.mlp(block.ln_2(hidden)))
