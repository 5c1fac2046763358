"""Distinctive caption sampling (Pseudo-RIS, sec. 3.2): words that fit the target and not the other masks.

At each step the target crop and the distractor crops (the other masks' crops of the same crop set) read the same prefix.
The target's logits choose the support, the distractors' are subtracted on it, and the next token is drawn from the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from pseudo_ris.captions.beam_search import beam_search
from pseudo_ris.captions.coca import CocaCaptioner, CocaImages
from pseudo_ris.captions.crops import CROP_SETS, cut_crops
from pseudo_ris.captions.decoding import LastHidden, PrefixDecoder
from pseudo_ris.captions.noise import draw_tokens, token_uniform
from pseudo_ris.config import CropConfig, DecodingConfig
from pseudo_ris.errors import UserError
from pseudo_ris.records import Candidate

# Both bound memory only: crops whose keys are held together, and rows projected onto the vocabulary together.
CROPS_AT_ONCE = 32
ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Strategy:
    """How a row's support is chosen: the `value` most likely tokens, or the most likely ones that sum to `value`."""

    rule: Literal["top_k", "top_p"]
    value: float

    @property
    def name(self) -> str:
        """As in `Candidate.strategy`."""
        return f"{self.rule}_{self.value:g}"


@dataclass(frozen=True)
class Row:
    """One candidate in the making. crop: its target's place among the crops that are decoded together."""

    crop: int
    crop_set: str
    seg_id: int
    strategy: Strategy


# (rows, step, q [rows, V]) -> tokens int64 [rows]
Draw = Callable[[Sequence[Row], int, torch.Tensor], torch.Tensor]


def write_candidates(
    captioner: CocaCaptioner,
    image: np.ndarray,
    masks: np.ndarray,
    seg_ids: Sequence[int],
    image_id: str,
    decoding: DecodingConfig,
    crops: CropConfig,
) -> list[list[Candidate]]:
    """All candidate expressions of an image's masks.

    image: RGB uint8 [H, W, 3]. masks: bool [N, H, W], none of them empty. seg_ids: the masks' numbers, which key the noise.
    Returns for each mask its candidates: for each crop set the beam search caption, one for each top-k, one for each top-p.
    Raises UserError when the captioner cannot write candidates of `max_length` tokens.
    """
    if decoding.max_length > captioner.context:
        raise UserError(f"decoding.max_length: this CoCa reads {captioner.context} tokens at most, got {decoding.max_length}")
    candidates: list[list[Candidate]] = [[] for _ in seg_ids]
    sets_at_once = max(1, CROPS_AT_ONCE // max(1, len(seg_ids)))
    for first in range(0, len(CROP_SETS) if len(seg_ids) else 0, sets_at_once):
        crop_sets = CROP_SETS[first : first + sets_at_once]
        cut = [cut_crops(image, masks, name, captioner.image_size, crops.antialias) for name in crop_sets]
        images = captioner.encode(torch.cat(cut))
        beams = beam_search(captioner, images, decoding)
        rows = sampled_rows(crop_sets, seg_ids, decoding)
        samples = sample(captioner, images, rows, decoding, keyed_draw(decoding.seed, image_id))
        captions = [[("beam", beam)] for beam in beams]
        for row, ids in zip(rows, samples, strict=True):
            captions[row.crop].append((row.strategy.name, ids))
        for crop, of_crop in enumerate(captions):
            crop_set, mask = crop_sets[crop // len(seg_ids)], crop % len(seg_ids)
            candidates[mask] += [Candidate(captioner.decode_text(ids), crop_set, name) for name, ids in of_crop]
    return candidates


def sampled_rows(crop_sets: Sequence[str], seg_ids: Sequence[int], decoding: DecodingConfig) -> list[Row]:
    """The rows of an image: for each crop set, each mask, each strategy, in this order; crops count sets first, then masks."""
    strategies = [Strategy("top_k", k) for k in decoding.top_k] + [Strategy("top_p", p) for p in decoding.top_p]
    return [
        Row(place * len(seg_ids) + mask, crop_set, seg_id, strategy)
        for place, crop_set in enumerate(crop_sets)
        for mask, seg_id in enumerate(seg_ids)
        for strategy in strategies
    ]


def keyed_draw(seed: int, image_id: str) -> Draw:
    """Draws by the noise that belongs to each token (see `noise.token_uniform`)."""

    def draw(rows: Sequence[Row], step: int, q: torch.Tensor) -> torch.Tensor:
        uniforms = [token_uniform(seed, image_id, row.seg_id, row.crop_set, row.strategy.name, step) for row in rows]
        return draw_tokens(q, torch.tensor(uniforms, dtype=torch.float64, device=q.device))

    return draw


@torch.inference_mode()
def sample(
    captioner: CocaCaptioner, images: CocaImages, rows: Sequence[Row], decoding: DecodingConfig, draw: Draw
) -> list[list[int]]:
    """Samples a caption for every row: token ids from the start token on.

    A row ends at the end token, or at the pad token as in open_clip; a row that never does gets the end token as its last.
    """
    if not rows:
        return []
    device = captioner.device
    weights = crop_weights(images.latents, rows, decoding)
    target = torch.tensor([row.crop for row in rows], device=device)
    viewers = (weights[target] != 0).scatter(1, target[:, None], True)
    decoder = PrefixDecoder(captioner, images, viewers)
    ids = [[captioner.start] for _ in rows]
    active = torch.arange(len(rows), device=device)
    tokens, parents = torch.full_like(active, captioner.start), active
    for step in range(decoding.max_length - 2):
        last = decoder.step(tokens, parents)
        drawn = []
        for part in torch.arange(len(active), device=device).split(ROWS_AT_ONCE):
            part_rows = [rows[row] for row in active[part].tolist()]
            part_target = target[active[part]]
            logits, opposition = _project(captioner, last, part, part_target, weights[part_target])
            if step + 1 < decoding.min_length:
                logits[:, captioner.end] = -torch.inf
            support = choose_support(logits, [row.strategy for row in part_rows], decoding.min_token_probability)
            drawn.append(draw(part_rows, step, step_distribution(logits, opposition, support, captioner.end)))
        tokens = torch.cat(drawn)
        for row, token in zip(active.tolist(), tokens.tolist(), strict=True):
            ids[row].append(token)
        parents = ((tokens != captioner.end) & (tokens != captioner.pad)).nonzero()[:, 0]
        active, tokens = active[parents], tokens[parents]
        if not len(active):
            break
    for row in active.tolist():
        ids[row].append(captioner.end)
    return ids


def crop_weights(latents: torch.Tensor, rows: Sequence[Row], decoding: DecodingConfig) -> torch.Tensor:
    """How much each crop's logits count against each target: float [crops, crops], zero between different crop sets.

    latents: float [crops, D], L2-normalised.
    """
    weights = latents.new_zeros(len(latents), len(latents))
    for crop_set in dict.fromkeys(row.crop_set for row in rows):
        crops = torch.tensor(sorted({row.crop for row in rows if row.crop_set == crop_set}), device=latents.device)
        similarity = latents[crops] @ latents[crops].T
        weights[crops[:, None], crops] = distractor_weights(similarity, decoding)
    return weights


def distractor_weights(similarity: torch.Tensor, decoding: DecodingConfig) -> torch.Tensor:
    """The factors of the distractors' logits z_j in the calibration, float [N, N]; row i is target i's, its diagonal 0.

    similarity: cosine a_ij, float [N, N]. With n distractors asked and weight w: "mean" w * a_ij / n (released code), "softmax"
    w * softmax over them of a_ij (the paper's second form), "none" 0. More than `max_distractors` others: the most similar
    are asked, of equals the earlier, or none ("skip").
    """
    others = len(similarity) - 1
    asked = min(others, decoding.max_distractors)
    skipped = decoding.distractor_overflow == "skip" and others > decoding.max_distractors
    if decoding.calibration == "none" or skipped or asked <= 0:
        return torch.zeros_like(similarity)
    without_self = similarity.masked_fill(torch.eye(others + 1, dtype=torch.bool, device=similarity.device), -torch.inf)
    nearest = without_self.argsort(dim=1, descending=True, stable=True)[:, :asked]
    chosen = similarity.gather(1, nearest)
    factors = chosen.softmax(1) if decoding.calibration == "softmax" else chosen / asked
    return torch.zeros_like(similarity).scatter(1, nearest, decoding.calibration_weight * factors)


def _project(
    captioner: CocaCaptioner, last: LastHidden, rows: torch.Tensor, target: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Next-token logits z_i of each row's target crop, and the weighted sum of the other crops' z_j, both [rows, V].

    The projection is linear and without bias, so the sum is taken before it: two projections a row for any number of
    distractors. rows: int64 [rows], entries of `last.cells`. target: int64 [rows]. weights: float [rows, crops].
    """
    cells = last.cells[rows]
    own = last.values[cells.gather(1, target[:, None])[:, 0]]
    mixed = torch.einsum("rc,rcw->rw", weights, last.values[cells])
    return own @ captioner.projection, mixed @ captioner.projection


def choose_support(logits: torch.Tensor, strategies: Sequence[Strategy], min_token_probability: float) -> torch.Tensor:
    """The tokens each row may take: bool [R, V].

    logits: the targets', float [R, V]. min_token_probability: tokens to which the target's whole softmax gives less are
    left out, too; the most likely token always stays.
    """
    support = torch.zeros_like(logits, dtype=torch.bool)
    for rule, restrict in (("top_k", support_top_k), ("top_p", support_top_p)):
        rows = [row for row, strategy in enumerate(strategies) if strategy.rule == rule]
        if rows:
            values = torch.tensor([strategies[row].value for row in rows], dtype=torch.float64, device=logits.device)
            support[rows] = restrict(logits[rows], values)
    if min_token_probability:
        plausible = logits.softmax(1) >= min_token_probability
        support &= plausible | (logits == logits.amax(1, keepdim=True))
    return support


def support_top_k(logits: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """Tokens whose logit reaches the k-th largest: bool [R, V] for logits [R, V] and a k for each row, [R]."""
    k = k.long().clamp(max=logits.shape[1])
    largest = logits.topk(int(k.max()), dim=1).values
    return logits >= largest.gather(1, k[:, None] - 1)


def support_top_p(logits: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """The fewest most likely tokens whose probability reaches p: bool [R, V] for logits [R, V] and a p for each row, [R].

    A token is out when the tokens no more likely than it sum to 1 - p at most; the most likely one is never out.
    """
    ascending, order = logits.sort(dim=1, stable=True)
    kept = ascending.softmax(1).cumsum(1) > (1 - p).to(logits.dtype)[:, None]
    kept[:, -1] = True
    return torch.zeros_like(kept).scatter(1, order, kept)


def step_distribution(logits: torch.Tensor, opposition: torch.Tensor, support: torch.Tensor, end: int) -> torch.Tensor:
    """Weights q of the next token, float [R, V], zero outside the support; rows need not sum to 1.

    logits: z_i, -inf where a token is forbidden. opposition: weighted sum of the z_j; 0 is plain sampling. support: bool.
    All [R, V]. q is the softmax of the calibrated raw logits z_i - opposition on the support; but the end token keeps the
    probability the target alone gives it there, as the distractors say nothing about where a caption ends. Where q would be
    0 everywhere it is the target's own distribution.
    """
    plain = logits.masked_fill(~support, -torch.inf).softmax(1)
    q = (logits - opposition).masked_fill(~support, -torch.inf).softmax(1)
    q[:, end] = plain[:, end]
    return torch.where((q > 0).any(1, keepdim=True), q, plain)
