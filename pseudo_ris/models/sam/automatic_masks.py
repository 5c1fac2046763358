"""Automatic mask generation: SAM prompted with a grid of points, filtered, freed of duplicates.

The results are those of segment_anything's SamAutomaticMaskGenerator with one image crop, up to fp32 rounding. Unlike there,
masks of prompts that fail the predicted IoU are never drawn, the others are drawn a few at a time, and until duplicates are
removed each mask is kept as the packed bits of its box.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from segment_anything.modeling import Sam
from segment_anything.utils.amg import batched_mask_to_box, build_point_grid, calculate_stability_score, remove_small_regions
from segment_anything.utils.transforms import ResizeLongestSide
from torchvision.ops import batched_nms

from pseudo_ris.config import SamConfig
from pseudo_ris.errors import UserError
from pseudo_ris.models.sam.image_encoder import encode_image
from pseudo_ris.models.sam.prompt_decoder import ImageFeatures, PromptDecoder

STABILITY_OFFSET = 1.0
"""Stability is the IoU of a mask's versions at logit thresholds this much above and below the model's own."""

REGION_NMS_THRESH = 0.7
"""segment_anything's lower bound of the box IoU at which duplicates are removed again after small regions were."""

DRAWN_BYTES = {"cpu": 2**24, "cuda": 2**28}
"""Full-size logits held at once, if not those of a single prompt. On a CPU, what fits its caches is fastest."""


@dataclass(frozen=True, eq=False)
class SamMasks:
    """All masks SAM finds in an image, in segment_anything's order: best predicted IoU first, but where small regions are
    removed, masks that had some come after those that had none.

    masks: bool [m, H, W]. boxes: int64 [m, 4], xyxy half-open pixels. predicted_iou: float32 [m], the model's own
    estimate of each mask's IoU. stability: float32 [m], IoU of the mask's versions at logit thresholds +1 and -1.
    """

    masks: np.ndarray
    boxes: np.ndarray
    predicted_iou: np.ndarray
    stability: np.ndarray


@dataclass(frozen=True)
class _Frame:
    """Height and width of an image: its own, and as fed to the model before padding."""

    size: tuple[int, int]
    input_size: tuple[int, int]


@dataclass(frozen=True, eq=False)
class _Candidates:
    """Masks that passed the filters. boxes: int64 [m, 4], xyxy of the outermost pixels; scores float32 [m]; all on the
    model's device. packed: the bits of each mask within its box, in host memory."""

    packed: list[np.ndarray]
    boxes: torch.Tensor
    predicted_iou: torch.Tensor
    stability: torch.Tensor

    def take(self, indices: torch.Tensor) -> _Candidates:
        return _Candidates(
            [self.packed[i] for i in indices.tolist()],
            self.boxes[indices],
            self.predicted_iou[indices],
            self.stability[indices],
        )

    @staticmethod
    def join(parts: list[_Candidates], device: torch.device) -> _Candidates:
        nothing = _Candidates([], torch.zeros(0, 4, dtype=torch.int64, device=device), *torch.zeros(2, 0, device=device))
        parts = [nothing, *parts]
        return _Candidates(
            [packed for part in parts for packed in part.packed],
            torch.cat([part.boxes for part in parts]),
            torch.cat([part.predicted_iou for part in parts]),
            torch.cat([part.stability for part in parts]),
        )


class AutomaticMasks:
    """Masks of everything in an image."""

    def __init__(self, model: Sam, config: SamConfig) -> None:
        """model: in eval mode, on the device to run on; its image encoder in any precision, the rest in fp32.

        config: its architecture, weights, precision and channel order are not looked at.
        Raises UserError when the image encoder is to be compiled and runs on a CPU, where that takes a C++ compiler.
        """
        if config.compiled and model.device.type != "cuda":
            raise UserError(f"sam.compiled: is for CUDA, SAM runs on {model.device}; set it to false")
        self._encoder = torch.compile(encode_image) if config.compiled else encode_image
        self._model = model
        self._config = config
        self._decoder = PromptDecoder(model)
        self._resize = ResizeLongestSide(model.image_encoder.img_size)
        self._grid = build_point_grid(config.points_per_side)

    @torch.inference_mode()
    def generate(self, image: np.ndarray) -> SamMasks:
        """Masks of a uint8 image [H, W, 3] whose channels are in the model's order.

        None when the image is so thin that nothing is left of it at the model's input size.
        """
        candidates = self._without_duplicates(self._candidates(image))
        masks = _unpack(candidates, image.shape[:2])
        if self._config.min_mask_region_area > 0:
            candidates, masks = self._without_small_regions(candidates, masks)
        boxes = candidates.boxes.cpu().numpy()
        boxes[:, 2:] += 1
        return SamMasks(masks, boxes, candidates.predicted_iou.cpu().numpy(), candidates.stability.cpu().numpy())

    def _candidates(self, image: np.ndarray) -> _Candidates:
        """Masks of all points that pass the filters, in the order of the points."""
        size, device = image.shape[:2], self._model.device
        input_size = self._resize.get_preprocess_shape(*size, self._resize.target_length)
        if 0 in input_size:
            return _Candidates.join([], device)
        frame = _Frame(size, input_size)
        features = self._encode(image)
        points = torch.as_tensor(self._resize.apply_coords(self._grid * size[::-1], size), device=device)
        batches = points.split(self._config.points_per_batch)
        return _Candidates.join([self._candidates_at(batch, features, frame) for batch in batches], device)

    def _encode(self, image: np.ndarray) -> ImageFeatures:
        encoder = self._model.image_encoder
        resized = torch.as_tensor(self._resize.apply_image(image), device=self._model.device).permute(2, 0, 1)
        prepared = self._model.preprocess(resized)[None].to(next(encoder.parameters()).dtype)
        return self._decoder.arrange(self._encoder(encoder, prepared).float())

    def _candidates_at(self, points: torch.Tensor, features: ImageFeatures, frame: _Frame) -> _Candidates:
        """The same for some points [n, 2], whose masks are drawn as few at a time as DRAWN_BYTES allow."""
        prompts = self._decoder.decode(features, points)
        passing = prompts.predicted_iou > self._config.pred_iou_thresh
        if self._config.pred_iou_thresh == 0:  # segment_anything filters nothing then, negative estimates neither
            passing = torch.ones_like(passing)
        drawn = passing.any(1).nonzero()[:, 0]
        prompt_bytes = 4 * passing.shape[1] * (self._resize.target_length**2 + frame.size[0] * frame.size[1])
        chunk = max(1, DRAWN_BYTES["cuda" if points.is_cuda else "cpu"] // prompt_bytes)
        found = []
        for some in drawn.split(chunk) if len(drawn) else ():
            logits = self._decoder.draw(prompts.take(some))
            which = passing[some].nonzero(as_tuple=True)
            found.append(self._stable(logits[which], prompts.predicted_iou[some][which], frame))
        return _Candidates.join(found, points.device)

    def _stable(self, low_resolution: torch.Tensor, predicted_iou: torch.Tensor, frame: _Frame) -> _Candidates:
        """Candidates among masks of low-resolution logits [n, h, w] and predicted IoUs [n]."""
        threshold = self._model.mask_threshold
        logits = self._model.postprocess_masks(low_resolution[None], frame.input_size, frame.size)[0]
        stability = calculate_stability_score(logits, threshold, STABILITY_OFFSET)
        if self._config.stability_score_thresh > 0:
            passing = (stability >= self._config.stability_score_thresh).nonzero()[:, 0]
            logits, stability, predicted_iou = logits[passing], stability[passing], predicted_iou[passing]
        masks = logits > threshold
        boxes = batched_mask_to_box(masks).long()
        return _Candidates(_pack(masks, boxes), boxes, predicted_iou, stability)

    def _without_duplicates(self, candidates: _Candidates) -> _Candidates:
        """Those that remain after box NMS, best predicted IoU first."""
        return candidates.take(_nms(candidates.boxes, candidates.predicted_iou, self._config.box_nms_thresh))

    def _without_small_regions(self, candidates: _Candidates, masks: np.ndarray) -> tuple[_Candidates, np.ndarray]:
        """Fills small holes, then removes small islands, then duplicates that this made; untouched masks are preferred."""
        boxes, untouched = candidates.boxes.clone(), torch.zeros(len(masks))
        for i, mask in enumerate(masks):
            filled, had_holes = remove_small_regions(mask, self._config.min_mask_region_area, "holes")
            cleaned, had_islands = remove_small_regions(filled, self._config.min_mask_region_area, "islands")
            if had_holes or had_islands:
                masks[i] = cleaned
                boxes[i] = batched_mask_to_box(torch.as_tensor(masks[i]))
            else:
                untouched[i] = 1
        kept = _nms(boxes, untouched.to(boxes.device), max(self._config.box_nms_thresh, REGION_NMS_THRESH))
        return replace(candidates, boxes=boxes).take(kept), masks[kept.cpu().numpy()]


def _nms(boxes: torch.Tensor, scores: torch.Tensor, threshold: float) -> torch.Tensor:
    """Indices of the boxes that non-maximum suppression keeps, best score first."""
    return batched_nms(boxes.float(), scores, torch.zeros_like(scores), threshold)


def _pack(masks: torch.Tensor, boxes: torch.Tensor) -> list[np.ndarray]:
    """The bits of masks bool [m, H, W] within their boxes."""
    places = zip(masks.cpu().numpy(), boxes.tolist(), strict=True)
    return [np.packbits(mask[y0 : y1 + 1, x0 : x1 + 1]) for mask, (x0, y0, x1, y1) in places]


def _unpack(candidates: _Candidates, size: tuple[int, int]) -> np.ndarray:
    """The masks, bool [m, H, W]."""
    masks = np.zeros((len(candidates.packed), *size), bool)
    for mask, packed, (x0, y0, x1, y1) in zip(masks, candidates.packed, candidates.boxes.tolist(), strict=True):
        height, width = y1 + 1 - y0, x1 + 1 - x0
        mask[y0 : y1 + 1, x0 : x1 + 1] = np.unpackbits(packed, count=height * width).reshape(height, width)
    return masks
