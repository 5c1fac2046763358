"""MaskRIS's input distortion: hidden patches and hidden words (sec. 3.1 and 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch

from pseudo_ris.io.device import on_device
from pseudo_ris.ris.config import MaskingConfig
from pseudo_ris.ris.models.base import Tokenizer

Images = TypeVar("Images")
HIDDEN, REPLACED = 0.8, 0.1
"""Of the chosen words, those that become the mask token and those that become a random word; the rest stays. As BERT's.

MaskRIS's training script gives the same shares; without it, its code would replace 0.2.
"""


def distort(
    images: Images, tokens: torch.Tensor, tokenizer: Tokenizer, config: MaskingConfig, seeds: Sequence[int]
) -> tuple[Images, torch.Tensor]:
    """Images float [M, 3, S, S] and tokens int64 [N, L] with parts hidden, as `config` says; the arguments stay as they are.

    seeds: one a sentence. Sentences lie image by image, each image having equally many; the first one's seed is the image's.
    What is hidden depends on the seed only, and words not on whether the image is hidden.
    Where images are not to be hidden, `images` may be anything. tokens are on the CPU, images on any device.
    """
    if config.image:
        own = seeds[:: len(seeds) // len(images)]
        shown = torch.stack([shown_patches(images.shape[-1], config.patch, config.image_share, seed) for seed in own])
        images = images * on_device(shown[:, None].to(images.dtype), images.device)
    if config.text:
        drawn = drawn_words(tokenizer, config.draw_special)
        rows = [mask_words(row, tokenizer, drawn, config.text_share, seed) for row, seed in zip(tokens, seeds, strict=True)]
        tokens = torch.stack(rows)
    return images, tokens


def shown_patches(side: int, patch: int, share: float, seed: int) -> torch.Tensor:
    """Which pixels of a square stay: bool [side, side]. Of L patches, int(L * (1 - share)), drawn at random, are shown.

    Patches start at the upper left corner; those at the other edges may be smaller. Source of the rounding: MaskRIS's release.
    """
    count = -(-side // patch)
    order = torch.randperm(count * count, generator=torch.Generator().manual_seed(seed))
    shown = torch.ones(count * count, dtype=torch.bool)
    shown[order[: count * count - int(count * count * (1 - share))]] = False
    shown = shown.view(count, count).repeat_interleave(patch, 0).repeat_interleave(patch, 1)
    return shown[:side, :side]


def drawn_words(tokenizer: Tokenizer, special: bool) -> torch.Tensor:
    """Ids that may replace a word, int64 [N]: all, or without `special` those that are no special tokens."""
    ids = torch.arange(tokenizer.vocabulary)
    return ids if special else ids[~torch.isin(ids, torch.tensor(tokenizer.special_ids))]


def mask_words(tokens: torch.Tensor, tokenizer: Tokenizer, drawn: torch.Tensor, share: float, seed: int) -> torch.Tensor:
    """Tokens int64 [L], each word chosen with probability `share`; see HIDDEN. Special tokens stay.

    drawn: see drawn_words. Padding whose id is also a word's (CLIP's 0) may change; no model looks at it.
    """
    generator = torch.Generator().manual_seed(seed + 1)  # of its own, so that it does not follow the patches
    chosen, fate = torch.rand(2, len(tokens), generator=generator)
    others = drawn[torch.randint(len(drawn), (len(tokens),), generator=generator)]
    chosen = (chosen < share) & ~torch.isin(tokens, torch.tensor(tokenizer.special_ids))
    hidden = chosen & (fate < HIDDEN)
    replaced = chosen & (fate >= HIDDEN) & (fate < HIDDEN + REPLACED)
    return torch.where(replaced, others, tokens).masked_fill(hidden, tokenizer.mask_id)
