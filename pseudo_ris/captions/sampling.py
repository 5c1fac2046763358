"""Distinctive caption sampling of rows that are decoded together, step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from pseudo_ris.captions.listener import Known, Likelihoods
from pseudo_ris.captions.token_filter import Strategy, choose_support, token_weights
from pseudo_ris.config import DecodingConfig
from pseudo_ris.io.device import on_device
from pseudo_ris.models.coca.captioner import CocaCaptioner, CocaImages
from pseudo_ris.models.coca.decoding import LastHidden, PrefixDecoder

# Rows projected onto the vocabulary together, which bounds memory, and logits drawn from together, which stay in a CPU's cache.
ROWS_PROJECTED = 256
LOGITS_DRAWN = {"cpu": 2**21, "cuda": 2**25}


@dataclass(frozen=True)
class Row:
    """One candidate in the making. crop: its target's place among the crops that are sampled together."""

    crop: int
    crop_set: str
    seg_id: int
    strategy: Strategy


# (rows, step, q [rows, V]) -> tokens int64 [rows]
Draw = Callable[[Sequence[Row], int, torch.Tensor], torch.Tensor]


def read_with(target: torch.Tensor, weights: torch.Tensor, readers: torch.Tensor | None) -> torch.Tensor:
    """The crops that each row's prefixes are read with, bool [R, crops]: its target, the distractors that count, and `readers`.

    target: int64 [R], on the CPU as are the result and `readers`. weights: float [R, crops] on any device.
    """
    read = (weights != 0).cpu().scatter(1, target[:, None], True)
    return read if readers is None else read | readers


class ChunkSampler:
    """Samples R rows together.

    crops: those of `images` that they are read with, int64 [C] ascending. target: each row's target among these, int64 [R].
    Both are on the CPU. weights: how much each crop's logits count against each row's target, float [R, C] on the device.
    readers: the crops whose likelihoods of each row are wanted, bool [R, C] on the CPU; None for no likelihoods. They are those
    of the tokens drawn: an end token at the largest length is no choice of the model.
    """

    def __init__(
        self,
        captioner: CocaCaptioner,
        images: CocaImages,
        crops: torch.Tensor,
        rows: Sequence[Row],
        target: torch.Tensor,
        weights: torch.Tensor,
        decoding: DecodingConfig,
        draw: Draw,
        readers: torch.Tensor | None = None,
    ) -> None:
        self._captioner, self._decoding, self._draw = captioner, decoding, draw
        self._rows, self._target, self._weights = rows, target, weights
        self.likelihoods = None if readers is None else Likelihoods(captioner, readers)
        self._decoder = PrefixDecoder(captioner, images, crops, read_with(target, weights, readers), decoding.max_length)

    def captions(self) -> list[list[int]]:
        """Token ids of every row, from the start token on; see `distinctive.sample`. To be called once."""
        start, end, pad = self._captioner.start, self._captioner.end, self._captioner.pad
        ids = [[start] for _ in self._rows]
        active = torch.arange(len(self._rows))
        tokens, parents = torch.full_like(active, start), active
        for step in range(self._decoding.max_length - 2):
            last = self._decoder.step(tokens, parents)
            drawn, own = self._next_tokens(last, active, step)
            tokens = drawn.cpu()
            if self.likelihoods:
                self.likelihoods.add(last, active, tokens, Known(self._target[active], own))
            for row, token in zip(active.tolist(), tokens.tolist(), strict=True):
                ids[row].append(token)
            parents = ((tokens != end) & (tokens != pad)).nonzero()[:, 0]
            active, tokens = active[parents], tokens[parents]
            if not len(active):
                break
        for row in active.tolist():
            ids[row].append(end)
        return ids

    def _next_tokens(self, last: LastHidden, active: torch.Tensor, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Draws for the rows `active`, int64 [A] on the CPU, whose prefixes `last` has read.

        Returns the tokens, int64 [A], and their log-probabilities under the targets, float [A], both on the device.
        """
        drawn, own = [], []
        for places in torch.arange(len(active)).split(ROWS_PROJECTED):
            numbers = active[places]
            logits, total = self._target_logits(last, places, numbers, step)
            mixed = self._mix_distractors(last, places, numbers)
            drawn.append(self._draw_by_rule([self._rows[row] for row in numbers.tolist()], step, logits, mixed))
            own.append(logits.gather(1, drawn[-1][:, None])[:, 0] - total)
        return torch.cat(drawn), torch.cat(own)

    def _target_logits(
        self, last: LastHidden, places: torch.Tensor, numbers: torch.Tensor, step: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """z_i of each row, float [rows, V], with a forbidden end token at -inf; log of the sum of exp(z_i) with it, [rows].

        Equal prefixes are projected once.
        """
        cells = last.cells[places].gather(1, self._target[numbers, None])[:, 0]
        distinct, place_of = cells.unique(return_inverse=True)
        logits = self._captioner.layers.project(last.values[self._sent(distinct)])
        total = logits.logsumexp(1) if self.likelihoods else logits.new_zeros(len(logits))
        if step + 1 < self._decoding.min_length:
            logits[:, self._captioner.end] = -torch.inf
        sent = self._sent(place_of)
        return logits[sent], total[sent]

    def _mix_distractors(self, last: LastHidden, places: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """Weighted sum of the distractors' hidden states, float [rows, width].

        The projection is linear and without bias, so it gives the weighted sum of the z_j: one projection a row, whatever the
        number of distractors.
        """
        of_crops = last.values[self._sent(last.cells[places])]
        return torch.einsum("rc,rcw->rw", self._weights[self._sent(numbers)], of_crops)

    def _draw_by_rule(self, rows: list[Row], step: int, logits: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        """Next tokens, int64 [rows]. Top-k and top-p rows apart: the supports of the first are always small."""
        tokens = torch.empty(len(rows), dtype=torch.long, device=logits.device)
        at_once = max(1, LOGITS_DRAWN["cuda" if logits.is_cuda else "cpu"] // logits.shape[1])
        for rule in ("top_k", "top_p"):
            of_this_rule = [place for place, row in enumerate(rows) if row.strategy.rule == rule]
            for first in range(0, len(of_this_rule), at_once):
                of_rule = [rows[place] for place in of_this_rule[first : first + at_once]]
                places = self._sent(torch.tensor(of_this_rule[first : first + at_once]))
                z = logits[places]
                support = choose_support(z, [row.strategy for row in of_rule], self._decoding.min_token_probability)
                tokens[places] = self._draw(of_rule, step, token_weights(self._captioner, z, mixed[places], support))
        return tokens

    def _sent(self, values: torch.Tensor) -> torch.Tensor:
        """Indices of the CPU on the model's device."""
        return on_device(values, self._captioner.device)
