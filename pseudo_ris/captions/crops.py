"""From a mask to the four crops that CoCa and CLIP see (Pseudo-RIS, sec. 3.2)."""

from __future__ import annotations

from math import floor

import numpy as np
import torch
from torch.nn.functional import interpolate, pad

from pseudo_ris.masks.boxes import box_of
from pseudo_ris.records import Box

CROP_SETS = ("masked", "image_1.0", "image_1.1", "image_1.2")

# What the images of CLIP's and CoCa's training were normalised with, RGB in [0, 1] (Radford et al. 2021).
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def cut_crop(image: np.ndarray, mask: np.ndarray, crop_set: str, size: int, antialias: bool) -> torch.Tensor:
    """The crop of one mask: margin box, square padding with the CLIP mean colour, bilinear resize, normalisation.

    image: RGB uint8 [H, W, 3]. mask: bool [H, W], not empty. crop_set: one of CROP_SETS; "masked" shows the image where
    the mask is set and the CLIP mean colour elsewhere. size: side of the result in pixels. antialias: of the resize.
    Returns float32 [3, size, size] on the CPU, where 0 is the CLIP mean colour.
    Raises ValueError when the mask is empty, its size is not the image's, or the crop set is unknown.
    """
    if crop_set not in CROP_SETS:
        raise ValueError(f"crop set {crop_set!r} is not one of {', '.join(CROP_SETS)}")
    if mask.shape != image.shape[:2]:
        raise ValueError(f"mask of size {mask.shape} (H, W) for an image of size {image.shape[:2]}")
    masked = crop_set == "masked"
    margin = 1.0 if masked else float(crop_set.removeprefix("image_"))
    x0, y0, x1, y1 = widen(box_of(mask), margin, mask.shape)
    crop = _normalise(image[y0:y1, x0:x1])
    if masked:
        crop = crop * torch.from_numpy(mask[y0:y1, x0:x1].astype(np.float32))
    return _resize(_pad_to_square(crop), size, antialias)


def cut_crops(image: np.ndarray, masks: np.ndarray, crop_set: str, size: int, antialias: bool) -> torch.Tensor:
    """`cut_crop` of every mask. masks: bool [N, H, W]. Returns float32 [N, 3, size, size]."""
    crops = [cut_crop(image, mask, crop_set, size, antialias) for mask in masks]
    return torch.stack(crops) if crops else torch.zeros(0, 3, size, size)


def widen(box: Box, margin: float, image_size: tuple[int, ...]) -> Box:
    """`box` at `margin` times its width and height about its centre, rounded to pixels, clipped to the image (H, W)."""
    x0, y0, x1, y1 = box
    height, width = image_size
    half_width, half_height = margin * (x1 - x0) / 2, margin * (y1 - y0) / 2
    centre_x, centre_y = (x0 + x1) / 2, (y0 + y1) / 2
    return (
        max(0, floor(centre_x - half_width + 0.5)),
        max(0, floor(centre_y - half_height + 0.5)),
        min(width, floor(centre_x + half_width + 0.5)),
        min(height, floor(centre_y + half_height + 0.5)),
    )


def _normalise(image: np.ndarray) -> torch.Tensor:
    """uint8 [H, W, 3] -> float32 [3, H, W]; the CLIP mean colour becomes 0."""
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float() / 255
    return (pixels - torch.tensor(CLIP_MEAN).view(3, 1, 1)) / torch.tensor(CLIP_STD).view(3, 1, 1)


def _pad_to_square(crop: torch.Tensor) -> torch.Tensor:
    """Normalised [3, H, W] -> [3, S, S] with the content centred; zeros are the CLIP mean colour."""
    _, height, width = crop.shape
    side = max(height, width)
    left, top = (side - width) // 2, (side - height) // 2
    return pad(crop, (left, side - width - left, top, side - height - top))


def _resize(crop: torch.Tensor, size: int, antialias: bool) -> torch.Tensor:
    """[3, S, S] -> [3, size, size]. Resizing after normalising is the same as before it: both are linear."""
    return interpolate(crop[None], (size, size), mode="bilinear", align_corners=False, antialias=antialias)[0]
