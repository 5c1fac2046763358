"""The captioner as a listener: which of an image's masks does an expression describe? (docs/how-to/select-and-review.md)

A caption model gives the likelihood of a text under a crop. Normalised over the masks of an image it is the probability that
the text means a mask, as the listener of rational speech acts has it (Andreas and Klein, EMNLP 2016). A text is heard with the
crop it was written for and the rivals' crops of the same crop set: sampling reads these crops anyway, so that its caches serve
the listener too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from pseudo_ris.io.device import on_device
from pseudo_ris.models.coca.captioner import CocaCaptioner, CocaImages
from pseudo_ris.models.coca.chunks import in_chunks
from pseudo_ris.models.coca.decoding import LastHidden, PrefixDecoder

CELLS_PROJECTED = 256
"""Hidden states projected onto the vocabulary together, which bounds memory."""

HEARD_WITH = "own crops"
"""The crops with which the listener scores a text. In the hash of settings, so that scores from other crops are recomputed."""


class Hearing(NamedTuple):
    """What is heard of a text. probability: that it means its mask and not a rival, in [0, 1]. rival: row of the likeliest one,
    -1 without one. confidence: probability of its least likely token under its crop, in [0, 1]."""

    probability: float = 1.0
    rival: int = -1
    confidence: float = 1.0


class Listeners:
    """Who hears the texts of each crop: the crop itself and its rivals, the most similar crops of the same crop set.

    Args:
        latents: float [crops, D], L2-normalised, all masks of one crop set after all masks of another.
        masks: number of masks.
        rivals: of each mask, at most; see ListenerConfig.

    rivals: int64 [crops, A] on the CPU, the most similar first.
    """

    def __init__(self, latents: torch.Tensor, masks: int, rivals: int) -> None:
        self._masks = masks
        asked = min(rivals, masks - 1)
        found = []
        for first in range(0, len(latents), masks):
            of_set = latents[first : first + masks]
            similarity = (of_set @ of_set.T).float().fill_diagonal_(-torch.inf)
            found.append(first + similarity.argsort(dim=1, descending=True, stable=True)[:, :asked].cpu())
        self.rivals = torch.cat(found)

    def readers(self, own: torch.Tensor) -> torch.Tensor:
        """The crops that read each text, bool [T, crops] on the CPU. own: the crop each text is written for, int64 [T]."""
        readers = torch.zeros(len(own), len(self.rivals), dtype=torch.bool)
        return readers.scatter_(1, torch.cat([own[:, None], self.rivals[own]], 1), True)

    def hear(self, found: torch.Tensor, own: torch.Tensor, crops: torch.Tensor) -> list[Hearing]:
        """What is heard of each text.

        found: float64 [T, 2, C] of Likelihoods, of the crops `crops`, int64 [C] ascending. own: see `readers`.
        """
        total, lowest = found.unbind(1)
        place = torch.searchsorted(crops, own)[:, None]
        confidence = lowest.gather(1, place)[:, 0].exp().tolist()
        rivals = self.rivals[own]
        if not rivals.shape[1]:
            return [Hearing(confidence=value) for value in confidence]
        of_rivals = total.gather(1, torch.searchsorted(crops, rivals))
        share = torch.cat([total.gather(1, place), of_rivals], 1).softmax(1)[:, 0].tolist()
        likeliest = rivals.gather(1, of_rivals.argmax(1, keepdim=True))[:, 0] % self._masks
        return list(map(Hearing, share, likeliest.tolist(), confidence))


class Known(NamedTuple):
    """Log-probabilities that sampling has computed already. place: a crop of each row, int64 [A] on the CPU. logs: [A]."""

    place: torch.Tensor
    logs: torch.Tensor


class Likelihoods:
    """Log-likelihoods of R texts under the crops that read them, added up while the texts are decoded token by token.

    readers: bool [R, C] on the CPU, C being the crops of the decoder.
    """

    def __init__(self, captioner: CocaCaptioner, readers: torch.Tensor) -> None:
        self._captioner, self.readers = captioner, readers
        self._steps: list[tuple[torch.Tensor, torch.Tensor]] = []

    def add(self, last: LastHidden, rows: torch.Tensor, following: torch.Tensor, known: Known | None = None) -> None:
        """Adds the next token of each of `rows`, whose prefixes `last` has read. rows, following: int64 [A] on the CPU."""
        readers = self.readers[rows]
        if known:
            readers = readers.scatter(1, known.place[:, None], False)
        found = self._log_probabilities(last, following, readers)
        if known:
            found.scatter_(1, on_device(known.place, found.device)[:, None], known.logs[:, None].to(found.dtype))
        self._steps.append((rows, found))

    def result(self) -> torch.Tensor:
        """Log-likelihood of each text and of its least likely token, float64 [R, 2, C] on the CPU; -inf where not read."""
        total, lowest = torch.zeros(2, *self.readers.shape, dtype=torch.float64)
        together = torch.cat([logs.flatten() for _, logs in self._steps]).cpu().double()  # a GPU is waited for once
        for (rows, logs), of_step in zip(self._steps, together.split([logs.numel() for _, logs in self._steps]), strict=True):
            found = of_step.view_as(logs)
            total[rows] += found
            lowest[rows] = lowest[rows].minimum(found)
        return torch.stack([total, lowest], 1).masked_fill(~self.readers[:, None], -torch.inf)

    def _log_probabilities(self, last: LastHidden, following: torch.Tensor, readers: torch.Tensor) -> torch.Tensor:
        """Log-probability of each active row's next token under each crop, float32 [A, C] on the device; 0 if not read."""
        row, crop = readers.nonzero(as_tuple=True)
        tokens, device = following[row], self._captioner.device
        cells, place_of = last.cells[row, crop].unique(return_inverse=True)  # rows with equal prefixes read the same cells
        found = torch.zeros(readers.shape, device=device)
        for first in range(0, len(cells), CELLS_PROJECTED):
            part = cells[first : first + CELLS_PROJECTED]
            inside = ((place_of >= first) & (place_of < first + len(part))).nonzero()[:, 0]
            logs = self._captioner.layers.project(last.values[on_device(part, device)]).log_softmax(-1)
            rows, crops, places, chosen = (
                on_device(each, device) for each in (row[inside], crop[inside], place_of[inside] - first, tokens[inside])
            )
            found[rows, crops] = logs[places, chosen]
        return found


@torch.inference_mode()
def listen(
    captioner: CocaCaptioner, images: CocaImages, texts: Sequence[Sequence[int]], own: torch.Tensor, listeners: Listeners
) -> list[Hearing]:
    """What is heard of finished texts: token ids from the start token on. own: see `Listeners.readers`.

    Texts with a common prefix share its work, as in sampling (see decoding).
    """
    order = sorted(range(len(texts)), key=lambda number: texts[number])  # neighbours share prefixes
    readers = listeners.readers(own)

    def listen_chunk(part: slice, crops: torch.Tensor) -> list[Hearing]:
        chosen = order[part]
        found = _read(captioner, images, crops, [texts[number] for number in chosen], readers[chosen][:, crops])
        return listeners.hear(found, own[chosen], crops)

    heard = in_chunks(captioner, images, readers[order], 1, max(map(len, texts)), listen_chunk)
    return [hearing for _, hearing in sorted(zip(order, heard, strict=True))]


@torch.inference_mode()
def log_likelihoods(captioner: CocaCaptioner, images: CocaImages, texts: Sequence[str]) -> torch.Tensor:
    """Log-likelihood of each text under each crop, end token included, float64 [T, C] on the CPU.

    Texts are cut to the captioner's context. images: of C crops.
    """
    encoded = [captioner.tokenizer.encode(text)[: captioner.context - 1] for text in texts]
    read = [[captioner.start, *ids, captioner.end] for ids in encoded]
    readers = torch.ones(len(read), len(images.latents), dtype=torch.bool)

    def read_chunk(part: slice, crops: torch.Tensor) -> list[torch.Tensor]:
        return list(_read(captioner, images, crops, read[part], readers[part])[:, 0])

    return torch.stack(in_chunks(captioner, images, readers, 1, max(map(len, read)), read_chunk))


def _read(
    captioner: CocaCaptioner, images: CocaImages, crops: torch.Tensor, texts: Sequence[Sequence[int]], readers: torch.Tensor
) -> torch.Tensor:
    """`Likelihoods.result` of texts that are read together. crops: int64 [C]. readers: bool [T, C]."""
    lengths = torch.tensor([len(ids) for ids in texts])
    decoder = PrefixDecoder(captioner, images, crops, readers, int(lengths.max()) - 1)
    likelihoods = Likelihoods(captioner, readers)
    parents = active = (lengths > 1).nonzero()[:, 0]
    for step in range(int(lengths.max()) - 1):
        tokens, following = (torch.tensor([texts[row][place] for row in active.tolist()]) for place in (step, step + 1))
        likelihoods.add(decoder.step(tokens, parents), active, following)
        parents = (lengths[active] > step + 2).nonzero()[:, 0]
        active = active[parents]
    return likelihoods.result()
