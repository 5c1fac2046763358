"""Images and masks in the middle of a square, as ETRIS and CRIS feed them."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from pseudo_ris.captions.crops import CLIP_MEAN, CLIP_STD

MEAN, STD = np.array(CLIP_MEAN, np.float32), np.array(CLIP_STD, np.float32)
BORDER = tuple(255 * mean for mean in CLIP_MEAN)


@dataclass(frozen=True)
class Letterbox:
    """The affine map that fits an image into a square, keeping its shape, with equal borders on both sides.

    size: side of the square. matrix, inverse: float64 [2, 3], from pixels of the image to those of the square and back.
    Source: ETRIS's RefDataset.getTransformMat. Points are float32 there, so entries are exact to seven digits.
    """

    size: int
    matrix: np.ndarray
    inverse: np.ndarray

    @classmethod
    def of(cls, height: int, width: int, size: int) -> Letterbox:
        """That of an image of this height and width, pixels."""
        scale = min(size / height, size / width)
        inner_height, inner_width = height * scale, width * scale
        left, top = (size - inner_width) / 2, (size - inner_height) / 2
        corners = np.array([[0, 0], [width, 0], [0, height]], np.float32)
        placed = np.array([[left, top], [left + inner_width, top], [left, top + inner_height]], np.float32)
        return cls(size, cv2.getAffineTransform(corners, placed), cv2.getAffineTransform(placed, corners))

    def image(self, pixels: np.ndarray) -> np.ndarray:
        """RGB uint8 [H, W, 3] -> float32 [3, size, size], normalised by CLIP's mean and deviation; bicubic, border the mean."""
        square = cv2.warpAffine(pixels, self.matrix, (self.size, self.size), flags=cv2.INTER_CUBIC, borderValue=BORDER)
        return ((square.astype(np.float32) / 255 - MEAN) / STD).transpose(2, 0, 1)

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """bool [H, W] -> float32 [size, size] in [0, 1]: bilinear, border 0."""
        square = (self.size, self.size)
        # Of float64, as ETRIS's, OpenCV 4 and 5 make the same; of float32 they do not.
        return cv2.warpAffine(mask.astype(np.float64), self.matrix, square, flags=cv2.INTER_LINEAR).astype(np.float32)
