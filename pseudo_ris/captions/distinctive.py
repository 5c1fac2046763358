"""Distinctive caption sampling (Pseudo-RIS, sec. 3.2): words that fit the target and not the other masks.

At each step the target crop and the distractor crops (the other masks' crops of the same crop set) read the same prefix.
The target's logits choose the support, the distractors' are subtracted on it, and the next token is drawn from the result.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from pseudo_ris.captions.beam_search import beam_search
from pseudo_ris.captions.crops import CROP_SETS, cut_crops
from pseudo_ris.captions.listener import Hearing, Listeners, listen
from pseudo_ris.captions.noise import draw_tokens, token_uniform
from pseudo_ris.captions.sampling import ChunkSampler, Draw, Row, read_with
from pseudo_ris.captions.token_filter import Strategy
from pseudo_ris.config import CropConfig, DecodingConfig, ListenerConfig
from pseudo_ris.errors import UserError
from pseudo_ris.io.device import on_device
from pseudo_ris.models.coca.captioner import CocaCaptioner, CocaImages
from pseudo_ris.models.coca.chunks import in_chunks
from pseudo_ris.records import Candidate

NO_LISTENER = ListenerConfig(rivals=0)


def write_candidates(
    captioner: CocaCaptioner,
    image: np.ndarray,
    masks: np.ndarray,
    seg_ids: Sequence[int],
    image_id: str,
    decoding: DecodingConfig,
    crops: CropConfig,
    listener: ListenerConfig = NO_LISTENER,
) -> list[list[Candidate]]:
    """All candidate expressions of an image's masks.

    image: RGB uint8 [H, W, 3]. masks: bool [N, H, W], none of them empty. seg_ids: the masks' numbers, which key the noise.
    listener: how candidates are listened to; by default they are not.
    Returns for each mask its candidates: for each crop set the beam search caption, one for each top-k, one for each top-p.
    Raises UserError when the captioner cannot write candidates of `max_length` tokens.
    """
    if decoding.max_length > captioner.context:
        raise UserError(f"decoding.max_length: this CoCa reads {captioner.context} tokens at most, got {decoding.max_length}")
    if not len(seg_ids):
        return []
    cut = [cut_crops(image, masks, name, captioner.image_size, crops) for name in CROP_SETS]
    rows = sampled_rows(CROP_SETS, seg_ids, decoding)
    with captioner.autocast():
        images = captioner.encode(torch.cat(cut))
        listeners = Listeners(images.latents, len(seg_ids), listener.rivals) if listener.rivals else None
        beams = beam_search(captioner, images, decoding)
        heard = listen(captioner, images, beams, torch.arange(len(beams)), listeners) if listeners else [Hearing()] * len(beams)
        sampled = sample_heard(captioner, images, rows, decoding, keyed_draw(decoding.seed, image_id), listeners)
    of_crop = [[("beam", *beam)] for beam in zip(beams, heard, strict=True)]
    for row, caption in zip(rows, sampled, strict=True):
        of_crop[row.crop].append((row.strategy.name, *caption))
    return [
        [
            Candidate(captioner.decode_text(ids), crop_set, name, *hearing)
            for place, crop_set in enumerate(CROP_SETS)
            for name, ids, hearing in of_crop[place * len(seg_ids) + mask]
        ]
        for mask in range(len(seg_ids))
    ]


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
        return draw_tokens(q, on_device(torch.tensor(uniforms, dtype=torch.float64), q.device))

    return draw


def sample(
    captioner: CocaCaptioner, images: CocaImages, rows: Sequence[Row], decoding: DecodingConfig, draw: Draw
) -> list[list[int]]:
    """Samples a caption for every row: token ids from the start token on.

    A row ends at the end token, or at the pad token as in open_clip; a row that never does gets the end token as its last.
    """
    return [ids for ids, _ in sample_heard(captioner, images, rows, decoding, draw, None)]


@torch.inference_mode()
def sample_heard(
    captioner: CocaCaptioner,
    images: CocaImages,
    rows: Sequence[Row],
    decoding: DecodingConfig,
    draw: Draw,
    listeners: Listeners | None,
) -> list[tuple[list[int], Hearing]]:
    """Samples as `sample`, and returns the listeners' scores of each caption, an empty Hearing without listeners."""
    if not rows:
        return []
    target = torch.tensor([row.crop for row in rows])
    weights = crop_weights(images.latents, rows, decoding)[on_device(target, captioner.device)]
    readers = listeners.readers(target) if listeners else None

    def sample_chunk(part: slice, crops: torch.Tensor) -> list[tuple[list[int], Hearing]]:
        place = torch.searchsorted(crops, target[part])
        of_crops = weights[part][:, on_device(crops, captioner.device)]
        reading = None if readers is None else readers[part][:, crops]
        chunk = ChunkSampler(captioner, images, crops, rows[part], place, of_crops, decoding, draw, reading)
        captions = chunk.captions()
        if not listeners:
            return [(ids, Hearing()) for ids in captions]
        return list(zip(captions, listeners.hear(chunk.likelihoods.result(), target[part], crops), strict=True))

    return in_chunks(captioner, images, read_with(target, weights, readers), 1, decoding.max_length, sample_chunk)


def crop_weights(latents: torch.Tensor, rows: Sequence[Row], decoding: DecodingConfig) -> torch.Tensor:
    """How much each crop's logits count against each target: float [crops, crops], zero between different crop sets.

    latents: float [crops, D], L2-normalised.
    """
    weights = latents.new_zeros(len(latents), len(latents))
    for crop_set in dict.fromkeys(row.crop_set for row in rows):
        crops = torch.tensor(sorted({row.crop for row in rows if row.crop_set == crop_set}), device=latents.device)
        similarity = (latents[crops] @ latents[crops].T).to(latents.dtype)  # autocast makes it fp16
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
