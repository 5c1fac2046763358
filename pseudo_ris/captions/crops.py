"""From a mask to the four crops that CoCa and CLIP see (Pseudo-RIS, sec. 3.2)."""

from __future__ import annotations

from math import floor

import numpy as np
import torch
from torch.nn.functional import interpolate

from pseudo_ris.config import CropConfig
from pseudo_ris.io.boxes import box_of
from pseudo_ris.records import Box

OBJECT_VIEWS = ("masked", "image_1.2")
"""The object alone, and with some of what surrounds it: the local and the global view of Yu et al. (CVPR 2023)."""
CROP_SETS = ("masked", "image_1.0", "image_1.1", "image_1.2")

# What the images of CLIP's and CoCa's training were normalised with, RGB in [0, 1] (Radford et al. 2021).
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

# Values of `crops.fill` as normalised colours. The release writes the mean into pixels that are normalised already.
FILLS = {"mean": torch.zeros(3), "release": torch.tensor(CLIP_MEAN)}


def cut_crop(image: np.ndarray, mask: np.ndarray, crop_set: str, size: int, config: CropConfig) -> torch.Tensor:
    """The crop of one mask: normalisation, margin box, padding to a square, bilinear resize.

    image: RGB uint8 [H, W, 3]. mask: bool [H, W], not empty. crop_set: one of CROP_SETS; "masked" shows the image where
    the mask is set and the fill colour elsewhere. size: side of the result in pixels. config: fill colour, box and resize.
    Returns float32 [3, size, size] on the CPU, normalised: 0 is the CLIP mean colour. With the release's box a mask one pixel
    wide or high gives a crop that is all fill; so does a single pixel, which the release cannot resize.
    Raises ValueError when the mask is empty, its size is not the image's, or the crop set is unknown.
    """
    if crop_set not in CROP_SETS:
        raise ValueError(f"crop set {crop_set!r} is not one of {', '.join(CROP_SETS)}")
    if mask.shape != image.shape[:2]:
        raise ValueError(f"mask of size {mask.shape} (H, W) for an image of size {image.shape[:2]}")
    masked = crop_set == "masked"
    margin = 1.0 if masked else float(crop_set.removeprefix("image_"))
    widened = widen if config.box == "tight" else widen_as_release
    x0, y0, x1, y1 = widened(box_of(mask), margin, mask.shape)
    crop, fill = _normalise(image[y0:y1, x0:x1]), FILLS[config.fill].view(3, 1, 1)
    if masked:
        crop = torch.where(torch.from_numpy(mask[y0:y1, x0:x1]), crop, fill)
    return _resize(_pad_to_square(crop, fill), size, config.antialias)


def cut_crops(image: np.ndarray, masks: np.ndarray, crop_set: str, size: int, config: CropConfig) -> torch.Tensor:
    """`cut_crop` of every mask. masks: bool [N, H, W]. Returns float32 [N, 3, size, size]."""
    crops = [cut_crop(image, mask, crop_set, size, config) for mask in masks]
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


def widen_as_release(box: Box, margin: float, image_size: tuple[int, ...]) -> Box:
    """The box that the Pseudo-RIS release cuts out for a mask whose tight box is `box`; empty for one pixel.

    The release takes the last set column and row for the ends, so the box is one pixel short, and truncates corner and
    extent each on its own.
    """
    height, width = image_size
    left, columns = _span_as_release(box[0], box[2] - 1, margin, width)
    top, rows = _span_as_release(box[1], box[3] - 1, margin, height)
    return left, top, left + columns, top + rows


def _span_as_release(first: int, last: int, margin: float, length: int) -> tuple[int, int]:
    """Start and extent, pixels, of `first` to `last` (inclusive) at `margin` times its size, clipped to [0, length]."""
    widening = (margin * (last - first) - (last - first)) / 2
    start = max(first - widening, 0.0)
    return int(start), int(min(last + widening, length) - start)


def _normalise(image: np.ndarray) -> torch.Tensor:
    """uint8 [H, W, 3] -> float32 [3, H, W]; the CLIP mean colour becomes 0."""
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float() / 255
    return (pixels - torch.tensor(CLIP_MEAN).view(3, 1, 1)) / torch.tensor(CLIP_STD).view(3, 1, 1)


def _pad_to_square(crop: torch.Tensor, fill: torch.Tensor) -> torch.Tensor:
    """Normalised [3, H, W] -> [3, S, S] with the content centred. fill: [3, 1, 1]. S is 1 for a crop without pixels."""
    _, height, width = crop.shape
    side = max(height, width, 1)
    left, top = (side - width) // 2, (side - height) // 2
    square = fill.repeat(1, side, side)
    square[:, top : top + height, left : left + width] = crop
    return square


def _resize(crop: torch.Tensor, size: int, antialias: bool) -> torch.Tensor:
    """[3, S, S] -> [3, size, size]. Resizing after normalising is the same as before it: both are linear."""
    return interpolate(crop[None], (size, size), mode="bilinear", align_corners=False, antialias=antialias)[0]
