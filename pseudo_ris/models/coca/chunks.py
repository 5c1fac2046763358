"""Number of rows decoded together: as many as fit in a fixed number of bytes, for any number of masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch

from pseudo_ris.io.device_faults import is_out_of_memory, release_cached_memory
from pseudo_ris.models.coca.captioner import CocaCaptioner, CocaImages

Result = TypeVar("Result")


def in_chunks(
    captioner: CocaCaptioner,
    images: CocaImages,
    viewers: torch.Tensor,
    copies: int,
    length: int,
    work: Callable[[slice, torch.Tensor], list[Result]],
) -> list[Result]:
    """The joined results of `work(rows, crops)` over chunks of consecutive rows.

    viewers: bool [R, crops] on the CPU, the crops each row is read with. copies: rows to decode for each row named here.
    length: tokens of the longest prefix. work: gets a slice of the rows and the crops they are read with, int64 [C] ascending
    on the CPU; returns a list.
    A chunk's caches (see `decoding.PrefixDecoder`) take at most `captioner.chunk_bytes`, or it is a single row. When a GPU's
    memory does not suffice all the same, that number is lowered to half of what was tried, for good.
    """
    prefix, cell, crop = entry_bytes(captioner, images, length)
    seen_by = viewers.numpy()
    row_bytes = copies * (prefix + cell * seen_by.sum(1))
    results: list[Result] = []
    first = 0
    while first < len(viewers):
        crops_so_far = np.logical_or.accumulate(seen_by[first:]).sum(1)
        needed = row_bytes[first:].cumsum() + crop * crops_so_far
        count = max(1, int((needed <= captioner.chunk_bytes).sum()))
        rows = slice(first, first + count)
        try:
            results += work(rows, viewers[rows].any(0).nonzero()[:, 0])
            first += count
        except RuntimeError as error:
            if count == 1 or not is_out_of_memory(error):
                raise
            captioner.chunk_bytes = int(needed[count - 1]) // 2
        if first < rows.stop:  # here and not above, where the error still holds on to the tensors
            release_cached_memory()
    return results


def entry_bytes(captioner: CocaCaptioner, images: CocaImages, length: int) -> tuple[int, int, int]:
    """Bytes that decoding keeps for one prefix, one cell and one crop. length: tokens of the longest prefix."""
    decoder_layers = len(captioner.model.text_decoder.resblocks)
    prefix_layers = len(captioner.model.text.transformer.resblocks) + 1
    pair = 2 * images.embeddings[0, 0].nbytes
    return (
        prefix_layers * length * pair,
        (decoder_layers - 1) * length * pair,
        decoder_layers * images.embeddings.shape[1] * pair,
    )
