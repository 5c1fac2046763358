"""The only randomness of captioning: one number for each sampled token, a pure function of what the token is."""

from __future__ import annotations

from hashlib import blake2b

import torch

# Half-steps of 2 ** -52 are exact in float64, which keeps 0 and 1 out.
BITS = 52


def token_uniform(seed: int, image_id: str, seg_id: int, crop_set: str, strategy: str, step: int) -> float:
    """A number in (0, 1) that depends on nothing but its arguments. step: 0 for the token after the start token."""
    key = repr((seed, image_id, seg_id, crop_set, strategy, step)).encode()
    bits = int.from_bytes(blake2b(key, digest_size=8).digest(), "big") >> (64 - BITS)
    return (bits + 0.5) / 2**BITS


def draw_tokens(weights: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """For each row the first token whose cumulative share of `weights` reaches the row's uniform number.

    weights: float [R, V], not negative, at least one positive in a row. uniforms: float64 [R] in (0, 1).
    The sums are float64. Returns int64 [R].
    """
    # Tokens that no row may take are left out: they change no sum, and there are many of them.
    taken = (weights > 0).any(0).nonzero()[:, 0]
    cumulative = weights[:, taken].double().cumsum_(1)
    cumulative /= cumulative[:, -1:].clone()
    return taken[torch.searchsorted(cumulative, uniforms[:, None])[:, 0]]
