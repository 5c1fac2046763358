"""Image features of the SAM-prompting model: CutLER's proposals, their CLIP embeddings and geometry."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional

from pseudo_ris.captions.crops import OBJECT_VIEWS, cut_crops
from pseudo_ris.config import CropConfig
from pseudo_ris.models.cutler.detector import Cutler, Instances

GEOMETRY = 12
MATCH_IOU = 0.5
"""IoU of the boxes from which a proposal is the object that a mask shows."""


class Proposals(NamedTuple):
    """P proposals of each of M images, the most certain first; rows that stand for none are 0 and not `real`.

    regions: CLIP's embeddings of both OBJECT_VIEWS, each of unit length, float32 [M, P, 2, D]. geometry: see `_geometry`,
    float32 [M, P, GEOMETRY]. boxes: xyxy, pixels of the model's square, float32 [M, P, 4]. centres: mean of the mask's pixels,
    x and y, float32 [M, P, 2]. real: bool [M, P].
    """

    regions: torch.Tensor
    geometry: torch.Tensor
    boxes: torch.Tensor
    centres: torch.Tensor
    real: torch.Tensor


def propose(
    detector: Cutler, embed: Callable[[torch.Tensor], torch.Tensor], image: np.ndarray, crop_side: int, count: int
) -> Proposals:
    """The proposals of a square image, on the CPU, as a batch of one; of more than `count` the most certain.

    embed: CLIP's embeddings of crops, float32 [n, 3, crop_side, crop_side] -> [n, D]. image: RGB uint8 [S, S, 3].
    """
    found = detector.detect(image)
    kept = Instances(found.masks[:count], found.boxes[:count], found.scores[:count])
    regions = [embed(cut_crops(image, kept.masks, crops, crop_side, CropConfig())) for crops in OBJECT_VIEWS]
    centres = [[columns.mean(), rows.mean()] for rows, columns in map(np.nonzero, kept.masks)]
    centres = torch.tensor(np.array(centres, np.float32).reshape(-1, 2))
    boxes = torch.from_numpy(np.asarray(kept.boxes, np.float32))
    columns = (
        torch.stack(regions, 1),
        _geometry(kept, boxes, centres),
        boxes,
        centres,
        torch.ones(len(boxes), dtype=torch.bool),
    )
    return Proposals(*(_padded(column, count)[None] for column in columns))


def _geometry(found: Instances, boxes: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """Where and how large each object is, float32 [n, GEOMETRY], each about from -1 to 1.

    Corners of the box, centre, width and height, root of the mask's area, certainty, and the squares of the centre, by which
    "in the middle" is a linear function of them.
    """
    side = found.masks.shape[-1]
    area = torch.from_numpy(found.masks.mean((1, 2), dtype=np.float32))
    middle = 2 * centres / side - 1
    size = 4 * (boxes[:, 2:] - boxes[:, :2]) / side
    certainty = torch.from_numpy(np.asarray(found.scores, np.float32))
    return torch.cat([2 * boxes / side - 1, middle, size, 4 * area.sqrt()[:, None], certainty[:, None], middle**2], dim=1)


def _padded(rows: torch.Tensor, count: int) -> torch.Tensor:
    """[n, ...] -> [count, ...], zeros (False) at the end."""
    return torch.cat([rows, rows.new_zeros(count - len(rows), *rows.shape[1:])])


def match(boxes: torch.Tensor, real: torch.Tensor, truth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The proposal that a mask shows, int64 [N], and whether there is one, bool [N] (see MATCH_IOU).

    boxes, real: float [N, P, 4] and bool [N, P], see Proposals. truth: masks float [N, S, S]; where one has no pixel over a
    half there is no proposal either.
    """
    wanted = _boxes_of(truth > 0.5)[:, None]
    corner, end = torch.maximum(boxes[..., :2], wanted[..., :2]), torch.minimum(boxes[..., 2:], wanted[..., 2:])
    shared = (end - corner).clamp(min=0).prod(-1)
    union = (boxes[..., 2:] - boxes[..., :2]).prod(-1) + (wanted[..., 2:] - wanted[..., :2]).prod(-1) - shared
    best, which = (shared / union.clamp(min=1)).masked_fill(~real, 0).max(1)
    return which, best >= MATCH_IOU


def _boxes_of(masks: torch.Tensor) -> torch.Tensor:
    """Tight boxes, xyxy, half-open, float [N, 4], of bool [N, S, S]; an empty mask's is empty."""
    ends = []
    for axis in (1, 2):  # whether a column, a row holds any
        there = masks.any(axis)
        first = there.int().argmax(1)
        last = torch.where(there.any(1), there.shape[1] - there.flip(1).int().argmax(1), first)
        ends.append((first, last))
    (left, right), (top, bottom) = ends
    return torch.stack([left, top, right, bottom], 1).float()


def similarities(regions: torch.Tensor, sentence: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """How well CLIP finds that sentences fit proposals, float [N, P, 4]: cosines of both crops, and both less the best one's.

    regions, real: see Proposals, N rows. sentence: unit length, float [N, D].
    """
    cosines = torch.einsum("npcd,nd->npc", regions, functional.normalize(sentence, dim=1))
    best = cosines.masked_fill(~real[..., None], -1).amax(1, keepdim=True)
    return torch.cat([cosines, cosines - best], dim=-1)
