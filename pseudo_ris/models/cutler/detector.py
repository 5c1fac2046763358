"""CutLER: an image's objects, without classes (Wang et al. 2023, arXiv 2301.11320)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from pseudo_ris.checkpoints.weights import ready_model
from pseudo_ris.config import CutlerConfig
from pseudo_ris.io.device import in_precision
from pseudo_ris.models.cutler.cascade_rcnn import ARCHITECTURES, CascadeMaskRCNN, paste_masks, rescale
from pseudo_ris.models.offload import weight_bytes


@dataclass(frozen=True, eq=False)
class Instances:
    """Objects of one image, highest score first.

    masks: bool [n, H, W]. boxes: float32 [n, 4], xyxy, pixels of the image, half-open. scores: float32 [n], 0 ... 1.
    """

    masks: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray


def build_cutler(architecture: str) -> CascadeMaskRCNN:
    """An untrained detector: "demo" or "resnet50_fpn"."""
    return CascadeMaskRCNN(ARCHITECTURES[architecture]).eval()


class Cutler:
    """The detector with its settings.

    Args:
        model: in eval mode, on the device it shall run on.
        config: input size, channel order and score threshold; the rest is not read.
    """

    def __init__(self, model: CascadeMaskRCNN, config: CutlerConfig) -> None:
        self.model = model
        self.config = config

    @classmethod
    def from_config(cls, config: CutlerConfig, device: torch.device | str) -> Cutler:
        """Builds the model and loads its weights. Raises UserError when they are missing or belong to another size."""
        model = _in_precision(ready_model(build_cutler, config, "cutler"), config)
        return cls(model.to(device), config)

    @staticmethod
    def weight_bytes(config: CutlerConfig, device: torch.device) -> int:
        """Bytes of the weights that `from_config` puts on `device`; nothing is read or allocated."""
        return weight_bytes(lambda: _in_precision(build_cutler(config.architecture), config))

    def detect(self, image: np.ndarray) -> Instances:
        """Objects of `image`, RGB uint8 [H, W, 3], that score at least `config.score_threshold` and have pixels."""
        height, width = image.shape[:2]
        resized = self._resize(image)
        detections = self.model.detect(self._to_tensor(resized), self.config.score_threshold)
        detections = rescale(detections, resized.shape[:2], (height, width))
        masks = paste_masks(detections, height, width)
        kept = masks.flatten(1).any(dim=1)
        return Instances(
            masks=masks[kept].numpy(),
            boxes=detections.boxes.cpu()[kept].numpy(),
            scores=detections.scores.cpu()[kept].numpy(),
        )

    def _resize(self, image: np.ndarray) -> np.ndarray:
        height, width = resized_size(*image.shape[:2], self.config.shortest_edge, self.config.longest_edge)
        return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))

    def _to_tensor(self, image: np.ndarray) -> torch.Tensor:
        """[H, W, 3] RGB -> [3, H, W] in the configured channel order, on the model's device.

        The release feeds BGR and still subtracts the RGB means in place, so the means are not reordered.
        """
        ordered = image if self.config.channel_order == "rgb" else image[:, :, ::-1]
        chw = np.ascontiguousarray(ordered.transpose(2, 0, 1))
        return torch.from_numpy(chw).to(self.model.pixel_mean.device)


def _in_precision(model: CascadeMaskRCNN, config: CutlerConfig) -> CascadeMaskRCNN:
    in_precision(model.backbone, config.precision)
    return model


def resized_size(height: int, width: int, shortest: int, longest: int) -> tuple[int, int]:
    """Height and width, the smaller being `shortest` unless the larger would exceed `longest`.

    As detectron2's ResizeShortestEdge.
    """
    scale = shortest / min(height, width)
    scaled_height, scaled_width = height * scale, width * scale
    if max(scaled_height, scaled_width) > longest:
        shrink = longest / max(scaled_height, scaled_width)
        scaled_height, scaled_width = scaled_height * shrink, scaled_width * shrink
    return max(1, int(scaled_height + 0.5)), max(1, int(scaled_width + 0.5))
