"""Resizes an image and its mask to squares: letterboxed as in ETRIS and CRIS, or stretched as in LAVT, CARIS and MaskRIS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import cv2
import numpy as np
from PIL import Image

FrameKind = Literal["letterbox", "stretch"]


class Frame(Protocol):
    """The affine map between an image and a square. size: side of the square, pixels.

    matrix, inverse: float64 [2, 3], from pixels of the image to those of the square and back.
    """

    size: int
    matrix: np.ndarray
    inverse: np.ndarray

    def image(self, pixels: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
        """RGB uint8 [H, W, 3] -> float32 [3, size, size], normalised."""
        ...

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """bool [H, W] -> float32 [size, size], share of each pixel that is the object's."""
        ...


def frame_of(kind: FrameKind, height: int, width: int, size: int) -> Frame:
    """The frame of an image of this height and width, pixels."""
    return (Letterbox if kind == "letterbox" else Stretch).of(height, width, size)


@dataclass(frozen=True)
class Letterbox:
    """Fits an image into the middle of the square, keeping its shape, with equal borders on both sides.

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

    def image(self, pixels: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
        """Bicubic; the border has the mean colour."""
        border = tuple(255 * float(channel) for channel in mean)
        square = cv2.warpAffine(pixels, self.matrix, (self.size, self.size), flags=cv2.INTER_CUBIC, borderValue=border)
        return _normalised(square, mean, std)

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """Bilinear, border 0."""
        square = (self.size, self.size)
        # Of float64, as ETRIS's, OpenCV 4 and 5 make the same; of float32 they do not.
        return cv2.warpAffine(mask.astype(np.float64), self.matrix, square, flags=cv2.INTER_LINEAR).astype(np.float32)


@dataclass(frozen=True)
class Stretch:
    """Brings height and width to the square's side each."""

    size: int
    matrix: np.ndarray
    inverse: np.ndarray

    @classmethod
    def of(cls, height: int, width: int, size: int) -> Stretch:
        """That of an image of this height and width, pixels. Pixel centres are at whole coordinates, as in OpenCV."""
        return cls(size, _scaling(size / width, size / height), _scaling(width / size, height / size))

    def image(self, pixels: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
        """Bilinear, antialiased where it shrinks, as torchvision and Pillow do."""
        square = np.asarray(Image.fromarray(pixels).resize((self.size, self.size), Image.Resampling.BILINEAR))
        return _normalised(square, mean, std)

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """Nearest, so that values stay 0 and 1."""
        square = cv2.resize(mask.astype(np.uint8), (self.size, self.size), interpolation=cv2.INTER_NEAREST_EXACT)
        return square.astype(np.float32)


def _scaling(x: float, y: float) -> np.ndarray:
    """The map that scales an image whose pixels are unit squares about their centres."""
    return np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2]])


def _normalised(square: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    return ((square.astype(np.float32) / 255 - mean) / std).transpose(2, 0, 1)
