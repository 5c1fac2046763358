"""Finds what expressions mean in one image, and draws it.

pseudo-ris predict --image FILE --expression "the red ball on the left" --checkpoint ris/run/best.pt
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from pseudo_ris.ris.evaluation.scores import at_original_size, margins
from pseudo_ris.ris.models.base import RisModel
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


def draw_overlay(image: np.ndarray, masks: Sequence[np.ndarray], expressions: Sequence[str]) -> Image.Image:
    """The image with each mask in a colour, over the expressions in the same colours."""
    side = min(max(*image.shape[:2], SMALLEST_SIDE), LARGEST_SIDE)
    colours = [COLOURS[number % len(COLOURS)] for number in range(len(masks))]
    picture = draw_masks(image, [Layer(mask, colour, 0.4) for mask, colour in zip(masks, colours, strict=True)], side)
    return draw_labelled(picture, list(zip(expressions, colours, strict=True)), (side, picture.shape[0]), len(expressions))
