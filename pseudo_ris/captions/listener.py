"""The captioner as a listener: which of an image's masks does an expression describe? (docs/how-to/select-and-review.md)

A caption model gives the likelihood of a text under a crop. Normalised over the masks of an image it is the probability that
the text means a mask, as the listener of rational speech acts has it (Andreas and Klein, EMNLP 2016).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from pseudo_ris.config import ListenerConfig
from pseudo_ris.io.device import on_device
from pseudo_ris.models.coca.captioner import CocaCaptioner, CocaImages
from pseudo_ris.models.coca.chunks import in_chunks
from pseudo_ris.models.coca.decoding import LastHidden, PrefixDecoder

CELLS_PROJECTED = 256
"""Hidden states projected onto the vocabulary together, which bounds memory."""


class Hearing(NamedTuple):
    """What is heard of a text. probability: that it means its mask and not a rival, in [0, 1]. rival: row of the likeliest one,
    -1 without one. confidence: probability of its least likely token under the mask's masked crop, in [0, 1]."""

    probability: float = 1.0
    rival: int = -1
    confidence: float = 1.0


@torch.inference_mode()
def listen(
    captioner: CocaCaptioner, images: CocaImages, texts: Sequence[Sequence[Sequence[int]]], config: ListenerConfig
) -> list[list[Hearing]]:
    """How well each mask's texts point at it, as the captioner hears them.

    Args:
        images: their first N crops are the masked crops of the N masks.
        texts: for each mask its texts, as token ids from the start token on.

    The rivals of a mask are the `config.rivals` masks whose masked crops are most similar. Returns what is heard of each text
    of each mask.
    """
    masks = len(texts)
    similarity = (images.latents[:masks] @ images.latents[:masks].T).float().fill_diagonal_(-torch.inf)
    asked = min(config.rivals, masks - 1)
    rivals = similarity.argsort(dim=1, descending=True, stable=True)[:, :asked].cpu()
    if not config.rivals:
        return [[Hearing() for _ in own] for own in texts]
    distinct = {ids: number for number, ids in enumerate(dict.fromkeys(tuple(ids) for own in texts for ids in own))}
    readers = torch.zeros(len(distinct), len(images.latents), dtype=torch.bool)
    for mask, own in enumerate(texts):
        places = torch.tensor([distinct[tuple(ids)] for ids in own], dtype=torch.long)
        readers[places[:, None], torch.cat([torch.tensor([mask]), rivals[mask]])] = True
    total, lowest = log_likelihoods(captioner, images, list(distinct), readers)
    return [
        [_heard(total[text], lowest[text, mask], mask, rivals[mask]) for text in (distinct[tuple(ids)] for ids in own)]
        for mask, own in enumerate(texts)
    ]


def _heard(total: torch.Tensor, lowest: torch.Tensor, mask: int, rivals: torch.Tensor) -> Hearing:
    """total: log-likelihood of a text under each crop, float64 [crops]. lowest: see `log_likelihoods`."""
    confidence = lowest.exp().item()
    if not len(rivals):
        return Hearing(confidence=confidence)
    share = torch.cat([total[mask, None], total[rivals]]).softmax(0)[0]
    return Hearing(share.item(), int(rivals[total[rivals].argmax()]), confidence)


@torch.inference_mode()
def log_likelihoods(
    captioner: CocaCaptioner, images: CocaImages, texts: Sequence[Sequence[int]], readers: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-likelihood of each text under each crop that reads it, and that of its least likely token.

    Both float64 [T, crops] on the CPU; -inf for crops that do not read it.

    texts: token ids from the start token on, which is given and not predicted. readers: bool [T, crops] on the CPU. Texts with
    a common prefix share its work, as in sampling (see decoding).
    """
    order = sorted(range(len(texts)), key=lambda number: texts[number])  # neighbours share prefixes

    def read_chunk(part: slice, crops: torch.Tensor) -> list[torch.Tensor]:
        chosen = order[part]
        own = readers[chosen][:, crops]
        found = torch.full((len(chosen), 2, len(images.latents)), -torch.inf, dtype=torch.float64)
        found[:, :, crops] = _read(captioner, images, crops, [texts[number] for number in chosen], own)
        return list(found)

    longest = max(map(len, texts))
    rows = in_chunks(captioner, images, readers[order], 1, longest, read_chunk)
    found = torch.empty(len(texts), 2, len(images.latents), dtype=torch.float64)
    found[order] = torch.stack(rows)
    return found[:, 0], found[:, 1]


def _read(
    captioner: CocaCaptioner, images: CocaImages, crops: torch.Tensor, texts: Sequence[Sequence[int]], readers: torch.Tensor
) -> torch.Tensor:
    """`log_likelihoods` of texts that are read together, float64 [T, 2, C]. crops: int64 [C]. readers: bool [T, C]."""
    lengths = torch.tensor([len(ids) for ids in texts])
    decoder = PrefixDecoder(captioner, images, crops, readers, int(lengths.max()) - 1)
    steps: list[tuple[torch.Tensor, torch.Tensor]] = []
    parents = active = (lengths > 1).nonzero()[:, 0]
    for step in range(int(lengths.max()) - 1):
        tokens, following = (torch.tensor([texts[row][place] for row in active.tolist()]) for place in (step, step + 1))
        last = decoder.step(tokens, parents)
        steps.append((active, _log_probabilities(captioner, last, following, readers[active])))
        parents = (lengths[active] > step + 2).nonzero()[:, 0]
        active = active[parents]
    total, lowest = torch.zeros(2, *readers.shape, dtype=torch.float64)
    together = torch.cat([logs.flatten() for _, logs in steps]).cpu().double()  # a GPU is waited for once
    for (rows, logs), of_step in zip(steps, together.split([logs.numel() for _, logs in steps]), strict=True):
        found = of_step.view_as(logs)
        total[rows] += found
        lowest[rows] = lowest[rows].minimum(found)
    return torch.stack([total, lowest], 1).masked_fill(~readers[:, None], -torch.inf)


def _log_probabilities(
    captioner: CocaCaptioner, last: LastHidden, following: torch.Tensor, readers: torch.Tensor
) -> torch.Tensor:
    """Log-probability of each active row's next token under each crop, float32 [R, C] on the device; 0 for other crops."""
    row, crop = readers.nonzero(as_tuple=True)
    tokens, device = following[row], captioner.device
    cells, place_of = last.cells[row, crop].unique(return_inverse=True)  # rows with equal prefixes read the same cells
    found = torch.zeros(readers.shape, device=device)
    for first in range(0, len(cells), CELLS_PROJECTED):
        part = cells[first : first + CELLS_PROJECTED]
        inside = ((place_of >= first) & (place_of < first + len(part))).nonzero()[:, 0]
        logs = captioner.layers.project(last.values[on_device(part, device)]).log_softmax(-1)
        rows, crops, places, chosen = (
            on_device(each, device) for each in (row[inside], crop[inside], place_of[inside] - first, tokens[inside])
        )
        found[rows, crops] = logs[places, chosen]
    return found
