"""Beam search as open_clip's CoCa does it, with transformers' scoring."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from pseudo_ris.config import DecodingConfig
from pseudo_ris.io.device import on_device
from pseudo_ris.models.coca.captioner import CocaCaptioner, CocaImages
from pseudo_ris.models.coca.chunks import in_chunks
from pseudo_ris.models.coca.decoding import PrefixDecoder

# Score of the beams that are still copies of the first one, before the first token tells them apart.
UNUSED = -1e9


@dataclass
class Hypotheses:
    """The best finished captions of one crop: at most `size` of (mean score, token ids)."""

    size: int
    found: list[tuple[float, list[int]]] = field(default_factory=list)

    def add(self, ids: list[int], total: float, length: int) -> None:
        """Offers a caption whose token scores sum to `total`, normalised by `length` tokens; at a tie the older one stays."""
        score = total / length
        if len(self.found) == self.size:
            worst = min(self.found, key=lambda entry: entry[0])
            if score <= worst[0]:
                return
            self.found.remove(worst)
        self.found.append((score, ids))

    def settled(self, best_total: float, length: int) -> bool:
        """Whether no open beam, the best of which has `best_total` at `length` tokens, scores above what is found."""
        return len(self.found) == self.size and min(self.found)[0] >= best_total / length

    def best(self) -> list[int]:
        """Token ids of the best caption; of equal ones the last found."""
        return max(reversed(self.found), key=lambda entry: entry[0])[1]


@dataclass(frozen=True)
class Beam:
    """An unfinished caption: its token ids, the sum of their scores, and the row of the previous step that it continues."""

    ids: list[int]
    total: float
    row: int


@torch.inference_mode()
def beam_search(captioner: CocaCaptioner, images: CocaImages, decoding: DecodingConfig) -> list[list[int]]:
    """The best caption of every crop: token ids from the start token on, with an end token unless the length ran out.

    As open_clip 3.3 with transformers 4.50: a beam's score is the sum of its raw logits (not log-probabilities), finished and
    unfinished captions compare by score divided by length, and no diversity penalty is applied. The beam groups of the
    "diverse" search therefore are copies of each other, and one of `beams / beam_groups` beams gives the same caption.

    The length of a finished caption includes the start token and, with `beam_length` "with_end", the end token. The release's
    transformers (4.30) leaves the end token out ("without_end"); an open beam counts all its tokens in either case.
    """
    beams = decoding.beams // decoding.beam_groups

    def search_chunk(_: slice, crops: torch.Tensor) -> list[list[int]]:
        return _search_chunk(captioner, images, crops, beams, decoding)

    own = torch.eye(len(images.latents), dtype=torch.bool)
    return in_chunks(captioner, images, own, beams, decoding.max_length, search_chunk)


def _search_chunk(
    captioner: CocaCaptioner, images: CocaImages, crops: torch.Tensor, beams: int, decoding: DecodingConfig
) -> list[list[int]]:
    """`beam_search` with `beams` beams in one group, for crops that are decoded together, int64 [C]."""
    device, count = captioner.device, len(crops)
    viewers = torch.eye(count, dtype=torch.bool).repeat_interleave(beams, 0)
    decoder = PrefixDecoder(captioner, images, crops, viewers, decoding.max_length)
    hypotheses = [Hypotheses(beams) for _ in range(count)]
    search = [Beam([captioner.start], 0.0 if rank == 0 else UNUSED, row) for row, rank in enumerate(list(range(beams)) * count)]
    live = list(range(count))
    for length in range(2, decoding.max_length + 1):
        last = decoder.step(_tensor([beam.ids[-1] for beam in search]), _tensor([beam.row for beam in search]))
        own = _tensor(live).repeat_interleave(beams)[:, None]
        logits = captioner.layers.project(last.values[on_device(last.cells.gather(1, own)[:, 0], device)])
        if length <= decoding.min_length:
            logits[:, captioner.end] = -torch.inf
        totals = logits + on_device(torch.tensor([[beam.total] for beam in search]), device)
        scores, picks = (best.tolist() for best in totals.view(len(live), -1).topk(2 * beams))
        following: list[Beam] = []
        unsettled: list[int] = []
        for place, crop in enumerate(live):
            ranked = list(zip(scores[place], picks[place], strict=True))
            branches = _branch(captioner, search, place * beams, beams, ranked, hypotheses[crop], decoding.beam_length)
            if not hypotheses[crop].settled(ranked[0][0], length):
                unsettled.append(crop)
                following.extend(branches)
        live, search = unsettled, following
        if not live:
            break
    for row, beam in enumerate(search):
        hypotheses[live[row // beams]].add(beam.ids, beam.total, len(beam.ids))
    return [found.best() for found in hypotheses]


def _branch(
    captioner: CocaCaptioner,
    search: list[Beam],
    first: int,
    beams: int,
    ranked: list[tuple[float, int]],
    hypotheses: Hypotheses,
    beam_length: str,
) -> list[Beam]:
    """The next beams of one crop, whose beams are `search[first : first + beams]`.

    ranked: its 2 * beams best (total, beam * vocabulary + token), best first. Continuations by the end token become
    hypotheses, though only when they are among the `beams` best.
    """
    branches: list[Beam] = []
    for rank, (total, pick) in enumerate(ranked):
        row, token = first + pick // captioner.vocabulary, pick % captioner.vocabulary
        ids = [*search[row].ids, token]
        if token != captioner.end:
            branches.append(Beam(ids, total, row))
        elif rank < beams:
            hypotheses.add(ids, total, len(ids) if beam_length == "with_end" else len(ids) - 1)
        if len(branches) == beams:
            break
    return branches


def _tensor(values: list[int]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.long)
