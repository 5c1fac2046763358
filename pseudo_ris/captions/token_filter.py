"""The tokens a sampled row may take next, and their weights: steps 1 to 5 of distinctive caption sampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from pseudo_ris.io.device import on_device
from pseudo_ris.models.coca.captioner import CocaCaptioner


@dataclass(frozen=True)
class Strategy:
    """How a row's support is chosen: the `value` most likely tokens, or the most likely ones that sum to `value`."""

    rule: Literal["top_k", "top_p"]
    value: float

    @property
    def name(self) -> str:
        """As in `Candidate.strategy`."""
        return f"{self.rule}_{self.value:g}"


# Distractors are projected onto single tokens when the support is smaller than this share of the vocabulary, which is
# when fetching their columns costs less than the whole product.
COLUMNS_SHARE = 1 / 256


def choose_support(logits: torch.Tensor, strategies: Sequence[Strategy], min_token_probability: float) -> torch.Tensor:
    """The tokens each row may take: bool [R, V].

    logits: the targets', float [R, V]. strategies: the rows', of one rule. min_token_probability: tokens to which the target's
    whole softmax gives less are left out, too; the most likely token always stays.
    """
    values = torch.tensor([strategy.value for strategy in strategies], dtype=torch.float64)
    support = support_top_k(logits, values) if strategies[0].rule == "top_k" else support_top_p(logits, values)
    if min_token_probability:
        plausible = logits.softmax(1) >= min_token_probability
        support &= plausible | (logits == logits.amax(1, keepdim=True))
    return support


def support_top_k(logits: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """Tokens whose logit reaches the k-th largest: bool [R, V] for logits [R, V] and a k for each row, [R] on the CPU."""
    k = k.long().clamp(max=logits.shape[1])
    largest = logits.topk(int(k.max()), dim=1).values
    return logits >= largest.gather(1, on_device(k[:, None] - 1, logits.device))


def support_top_p(logits: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """The fewest most likely tokens whose probability reaches p: bool [R, V] for logits [R, V] and a p for each row, [R] on the
    CPU.

    A token is out when the tokens no more likely than it sum to 1 - p at most; the most likely one is never out. Tokens exactly
    as likely as one that is in are in, too.
    """
    ascending = _sort(logits)
    out = ascending.softmax(1).cumsum(1) <= on_device((1 - p).to(logits.dtype)[:, None], logits.device)
    first_in = out.sum(1, keepdim=True).clamp(max=logits.shape[1] - 1)
    return logits >= ascending.gather(1, first_in)


def _sort(logits: torch.Tensor) -> torch.Tensor:
    """Each row in ascending order. On a CPU numpy's sort, which moves no indices along, takes a quarter of torch's time."""
    if logits.device.type == "cpu":
        return torch.from_numpy(np.sort(logits.numpy(), axis=1))
    return logits.sort(dim=1).values


def token_weights(captioner: CocaCaptioner, logits: torch.Tensor, mixed: torch.Tensor, support: torch.Tensor) -> torch.Tensor:
    """`step_distribution` on the whole vocabulary, for distractors that are not projected yet.

    logits: z_i, float [R, V]. mixed: float [R, width], which the projection takes to the weighted sum of the z_j. support: bool
    [R, V]. Returns float [R, V].
    """
    size = int(support.sum(1).max())
    if size > COLUMNS_SHARE * logits.shape[1]:
        is_end = torch.arange(logits.shape[1], device=logits.device) == captioner.end
        return step_distribution(logits, captioner.layers.project(mixed), support, is_end)
    tokens = logits.topk(size, dim=1).indices  # the support, as it is made of the most likely tokens
    opposition = torch.einsum("rw,rkw->rk", mixed, captioner.projection.T[tokens])
    q = step_distribution(logits.gather(1, tokens), opposition, support.gather(1, tokens), tokens == captioner.end)
    return torch.zeros_like(logits).scatter_(1, tokens, q)


def step_distribution(
    logits: torch.Tensor, opposition: torch.Tensor, support: torch.Tensor, is_end: torch.Tensor
) -> torch.Tensor:
    """Weights q of the next token, float [R, K], zero outside the support; rows need not sum to 1.

    logits: z_i, -inf where a token is forbidden. opposition: weighted sum of the z_j; 0 is plain sampling. support: bool. All
    [R, K] for K tokens that include the support. is_end: bool [R, K] or [K], the end token. q is the softmax of the calibrated
    raw logits z_i - opposition on the support; but the end token keeps the probability the target alone gives it there, as the
    distractors say nothing about where a caption ends. Where q would be 0 everywhere it is the target's own distribution.
    """
    outside = ~support
    plain = logits.masked_fill(outside, -torch.inf).softmax(1)
    q = (logits - opposition).masked_fill_(outside, -torch.inf).softmax(1)
    q = torch.where(is_end, plain, q)
    return torch.where((q > 0).any(1, keepdim=True), q, plain)
