"""Incremental decoding with CoCa: one new token for every row, everything else from caches.

A *row* is a caption in the making; its *prefix* is its tokens so far. A *viewer* of a row is a crop the prefix is read with.
What a prefix means to a viewer does not depend on the row, so rows with the same prefix share all work: the text tower runs
once per distinct prefix, the decoder once per distinct (crop, prefix), a *cell*.

Which prefixes and cells there are is worked out on the CPU; a GPU receives indices, and the host never waits for it here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence

from pseudo_ris.io.device import on_device, without_cudnn_attention
from pseudo_ris.models.coca.captioner import CocaCaptioner, CocaImages
from pseudo_ris.models.coca.layers import Block

# Of an attention by itself on a CPU, in multiplications of queries and keys that take as long. On a GPU it is far more.
CALL_COST = 2**19


@dataclass(frozen=True, eq=False)
class LastHidden:
    """The decoder's final hidden states at the last position of every row's prefix.

    values: float32 [cells, width] on the model's device, layer-normalised; `values @ captioner.projection` are the next-token
    logits. cells: int64 [rows, crops] on the CPU, the entry of `values` for a row and a crop; 0 and meaningless where the crop
    is no viewer.
    """

    values: torch.Tensor
    cells: torch.Tensor


class PrefixDecoder:
    """Reads the prefixes of R rows with some crops of `images`, one token at a time.

    crops: int64 [C] ascending, which ones. viewers: bool [R, C], those each row is read with. Both are on the CPU.
    length: tokens of the longest prefix that will be read.
    Its caches are allocated once, for R prefixes and as many cells as there are viewers; see `chunks.entry_bytes`.
    """

    def __init__(
        self, captioner: CocaCaptioner, images: CocaImages, crops: torch.Tensor, viewers: torch.Tensor, length: int
    ) -> None:
        rows = len(viewers)
        self._text, self._layers = captioner.model.text, captioner.layers
        self._vocabulary, self._pad = captioner.vocabulary, captioner.pad
        self._image_keys = captioner.image_keys(images, crops)
        # The decoder's first self-attention has not met the image yet, so it belongs to the prefix, not to the cell.
        prefix_blocks, cell_blocks = [*self._layers.text_tower, self._layers.own[0]], self._layers.own[1:]
        like, cells = images.embeddings, int(viewers.sum())
        self._prefix_caches = [KeyCache(like, rows, block.heads, length) for block in prefix_blocks]
        self._cell_caches = [KeyCache(like, cells, block.heads, length) for block in cell_blocks]
        # Before the first token all rows share the empty prefix 0, and a crop's number is that of its cell.
        self._length = 0
        self._viewers = viewers
        self._prefix_of_row = torch.zeros(rows, dtype=torch.long)
        self._cell_of = torch.arange(len(crops))[:, None]
        # Positions that the text tower may look at, the next one included: bool [prefixes, length + 1].
        self._visible = torch.ones(1, 1, dtype=torch.bool)
        self._device = captioner.device

    @without_cudnn_attention
    @torch.inference_mode()
    def step(self, tokens: torch.Tensor, parents: torch.Tensor) -> LastHidden:
        """Appends one token to each row and reads it.

        tokens: int64 [R'], the new tokens. parents: int64 [R'], the previous step's row each new row continues, so that
        rows can end (left out) or branch (named more than once). They never need more prefixes and cells than at first. Both
        are on the CPU.
        """
        extended = self._prefix_of_row[parents] * self._vocabulary + tokens
        distinct, self._prefix_of_row = extended.unique(return_inverse=True)
        self._viewers = self._viewers[parents]
        parent, token = distinct // self._vocabulary, distinct % self._vocabulary
        needed = self._needed_cells(len(distinct))
        crop, prefix = needed.nonzero(as_tuple=True)
        self._follow_prefixes(parent)
        self._follow_cells(parent, crop, prefix)
        of_prefix = self._read_prefixes(token)[on_device(prefix, self._device)]
        hidden = self._read_cells(of_prefix, needed.sum(1).tolist())
        self._length += 1
        return LastHidden(hidden.float(), self._cell_of[:, self._prefix_of_row].T)

    def _needed_cells(self, prefixes: int) -> torch.Tensor:
        """Which prefixes each crop has to read for some row: bool [crops, prefixes]."""
        readers = torch.zeros(prefixes, self._viewers.shape[1])
        return readers.index_add(0, self._prefix_of_row, self._viewers.to(readers.dtype)).T > 0

    def _follow_prefixes(self, parent: torch.Tensor) -> None:
        """Gives every prefix the past of its parent prefix, int64 [prefixes]."""
        self._visible = self._visible[parent]
        _follow(self._prefix_caches, parent, self._length)

    def _follow_cells(self, parent: torch.Tensor, crop: torch.Tensor, prefix: torch.Tensor) -> None:
        """Numbers the needed cells and gives each the past of its crop and parent prefix.

        crop, prefix: int64 [cells], those of each cell, by crop and then by prefix.
        """
        parent_cells = self._cell_of[crop, parent[prefix]]
        self._cell_of = torch.zeros(len(self._cell_of), len(parent), dtype=torch.long)
        self._cell_of[crop, prefix] = torch.arange(len(crop))
        _follow(self._cell_caches, parent_cells, self._length)

    def _read_prefixes(self, token: torch.Tensor) -> torch.Tensor:
        """Hidden states [prefixes, width] of the new tokens after the blocks that do not see the image.

        open_clip's CoCa hides the position after a pad token, id 0, from its text tower (meant for the pad token itself, but
        off by one, and the released weights were trained with it). Only a beam that picks id 0 as a word ever notices.
        """
        hidden = self._text.token_embedding(on_device(token, self._device)) + self._text.positional_embedding[self._length]
        mask = None if self._visible.all() else on_device(self._visible[:, None, None], self._device)
        self._visible = torch.cat([self._visible, (token != self._pad)[:, None]], 1)
        *text_caches, decoder_cache = self._prefix_caches
        for block, cache in zip(self._layers.text_tower, text_caches, strict=True):
            hidden = _self_attention(block, hidden, cache, self._length, mask)
        return _self_attention(self._layers.own[0], hidden, decoder_cache, self._length, None)

    def _read_cells(self, text: torch.Tensor, of_crop: Sequence[int]) -> torch.Tensor:
        """Hidden states [cells, width] after the rest of the decoder.

        text: what `_read_prefixes` returns, for each cell that of its prefix, [cells, width]. of_crop: cells of each crop.
        """
        hidden = _cross_attention(self._layers.cross[0], text, of_crop, *self._image_keys[0])
        later = zip(self._layers.own[1:], self._cell_caches, self._layers.cross[1:], self._image_keys[1:], strict=True)
        for own, cache, cross, keys in later:
            hidden = _self_attention(own, hidden, cache, self._length, None)
            hidden = _cross_attention(cross, hidden, of_crop, *keys)
        return self._layers.norm(hidden)


class KeyCache:
    """A self-attention's keys and values at the positions read so far, for at most `entries` prefixes or cells.

    Written in place: a step that neither ends nor branches a row copies nothing.
    """

    def __init__(self, like: torch.Tensor, entries: int, heads: int, length: int) -> None:
        self._heads = heads
        self._pairs = like.new_empty(entries, length, 2 * like.shape[-1])
        self.device = like.device

    def follow(self, entries: torch.Tensor, parents: torch.Tensor, length: int) -> None:
        """Gives some entries the first `length` positions of the entries they continue. Both int64 [moved]."""
        past = self._pairs[:, :length].flatten(1)
        past.index_copy_(0, entries, past.index_select(0, parents))

    def append(self, pairs: torch.Tensor, position: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Stores a position's keys and values, side by side in [entries', 2 * width].

        Returns those of all positions so far, each [entries', heads, position + 1, head width].
        """
        self._pairs[: len(pairs), position] = pairs
        past = self._pairs[: len(pairs), : position + 1].unflatten(-1, (2, self._heads, -1))
        keys, values = past.permute(2, 0, 3, 1, 4)
        return keys, values


def _follow(caches: list[KeyCache], parents: torch.Tensor, length: int) -> None:
    """Moves the past of every entry that does not continue itself. parents: int64 [entries'] on the CPU."""
    moved = (parents != torch.arange(len(parents))).nonzero()[:, 0]
    if length and len(moved) and caches:
        device = caches[0].device
        entries, sources = on_device(moved, device), on_device(parents[moved], device)
        for cache in caches:
            cache.follow(entries, sources, length)


def _self_attention(
    block: Block, hidden: torch.Tensor, cache: KeyCache, position: int, mask: torch.Tensor | None
) -> torch.Tensor:
    """A self-attention block for the new position: hidden [entries, width].

    mask: bool [entries, 1, 1, position + 1], positions that may be looked at, or None for all.
    """
    width = hidden.shape[-1]
    query, pairs = block.project_in(block.norm(hidden)).split([width, 2 * width], -1)
    query = query.unflatten(-1, (block.heads, 1, -1))
    mixed = scaled_dot_product_attention(query, *cache.append(pairs, position), attn_mask=mask)
    return block.finish(hidden, mixed.flatten(1))


def _cross_attention(
    block: Block, hidden: torch.Tensor, of_crop: Sequence[int], keys: torch.Tensor, values: torch.Tensor
) -> torch.Tensor:
    """A cross-attention block for the new position: hidden [cells, width], by crop.

    of_crop: cells of each crop, which look at it together. keys, values: [crops, heads, tokens, head width].
    """
    query = block.project_in(block.norm(hidden)).unflatten(-1, (block.heads, -1))
    in_vain = len(keys) * max(of_crop) - len(hidden)
    alone = hidden.device.type == "cpu" and in_vain * keys[0].numel() > CALL_COST * len(keys)
    look = _look_crop_by_crop if alone else _look_padded
    return block.finish(hidden, look(query, of_crop, keys, values).flatten(1))


def _look_crop_by_crop(query: torch.Tensor, of_crop: Sequence[int], keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """What each cell sees of its crop, [cells, heads, head width] like `query`."""
    seen = [
        scaled_dot_product_attention(cells.transpose(0, 1)[None], keys[crop, None], values[crop, None])[0].transpose(0, 1)
        for crop, cells in enumerate(query.split(of_crop))
        if len(cells)
    ]
    return torch.cat(seen)


def _look_padded(query: torch.Tensor, of_crop: Sequence[int], keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """`_look_crop_by_crop` in one call, in which the cells of all crops are filled up to the same number."""
    padded = pad_sequence(query.split(of_crop), batch_first=True).transpose(1, 2)
    seen = scaled_dot_product_attention(padded, keys, values).transpose(1, 2)
    return torch.cat([cells[:count] for cells, count in zip(seen, of_crop, strict=True)])
