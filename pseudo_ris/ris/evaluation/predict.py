"""Finds what expressions mean in one image, and draws it.

pseudo-ris predict --image FILE --expression "the red ball on the left" --checkpoint ris/run/best.pt
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pseudo_ris.errors import UserError
from pseudo_ris.io.device import pick_device
from pseudo_ris.io.images import ImageLike, load_image
from pseudo_ris.ris.evaluation.scores import at_original_size, margins
from pseudo_ris.ris.models.base import RisModel
from pseudo_ris.ris.models.checkpoints import load_model
from pseudo_ris.ris.models.letterbox import frame_of
from pseudo_ris.visual.drawing import COLOURS, Layer, draw_labelled, draw_masks

SMALLEST_SIDE, LARGEST_SIDE = 480, 1600
"""Of the overlay, pixels: its text is to be read, and it is to fit a screen."""


def segment(model: RisModel, image: np.ndarray, expression: str, device: torch.device) -> np.ndarray:
    """The mask, bool [H, W], of what an expression means in an image (RGB uint8 [H, W, 3]).

    model: in eval mode, on `device`. Raises UserError when its output is not finite.
    """
    frame = frame_of(model.form.frame, *image.shape[:2], model.form.input_size)
    pixels = torch.from_numpy(frame.image(image, *(np.array(each, np.float32) for each in (model.form.mean, model.form.std))))
    tokens, attention = model.tokenizer([expression])
    margin = margins(model, pixels[None], tokens, attention, "fp32", device)[0]
    return at_original_size(margin, frame.inverse, *image.shape[:2])


class RisSegmenter:
    """A trained RIS model for prediction; `load_ris` makes one. model, device: the network, in eval mode, and where
    it is.
    """

    def __init__(self, model: RisModel, device: torch.device) -> None:
        self.model, self.device = model, device

    def segment(self, image: ImageLike, expression: str) -> np.ndarray:
        """The mask, bool [H, W], of what an expression means in an image.

        image: path, PIL image, or RGB uint8 array [H, W, 3]. Raises UserError when the image cannot be used, the expression is
        empty or the model's output is not finite.

        Examples:
            >>> model = pr.load_ris("best.pt", device="cpu")
            >>> mask = model.segment("photo.jpg", "the dog on the left")
            >>> mask.shape, mask.dtype
            ((256, 256), dtype('bool'))
        """
        if not expression.strip():
            raise UserError("expression: is empty; say what to find")
        return segment(self.model, load_image(image), expression, self.device)

    def show(self, image: ImageLike, *expressions: str) -> Image.Image:
        """The image with what each expression means tinted and outlined, over the expressions. Raises UserError."""
        pixels = load_image(image)
        return draw_overlay(pixels, [self.segment(pixels, expression) for expression in expressions], expressions)


def load_ris(checkpoint: str | Path, device: str = "auto") -> RisSegmenter:
    """The model of a training's `best.pt` or `last.pt`, ready to segment.

    device: "auto" takes CUDA when there is one; or "cpu", "cuda", "cuda:1".
    Raises UserError when there is no such file, it is no checkpoint of a training, or there is no such device.

    Examples:
        >>> pr.load_ris("best.pt", device="cpu").model.form.input_size
        64
    """
    place = pick_device(device)
    return RisSegmenter(load_model(Path(checkpoint), place)[0], place)


def draw_overlay(image: np.ndarray, masks: Sequence[np.ndarray], expressions: Sequence[str]) -> Image.Image:
    """The image with each mask in a colour, over the expressions in the same colours."""
    side = min(max(*image.shape[:2], SMALLEST_SIDE), LARGEST_SIDE)
    colours = [COLOURS[number % len(COLOURS)] for number in range(len(masks))]
    picture = draw_masks(image, [Layer(mask, colour, 0.4) for mask, colour in zip(masks, colours, strict=True)], side)
    return draw_labelled(picture, list(zip(expressions, colours, strict=True)), (side, picture.shape[0]), len(expressions))
