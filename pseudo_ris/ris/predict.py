"""Finds what expressions mean in one image, and draws it.

python -m pseudo_ris.ris.predict --image FILE --expression "the red ball on the left" --checkpoint ris/run/best.pt
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pseudo_ris.cli import run_recipe
from pseudo_ris.device import pick_device
from pseudo_ris.drawing import COLOURS, Layer, draw_labelled, draw_masks
from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.files import require_file_place, write_output
from pseudo_ris.images import decode_image, read_bytes
from pseudo_ris.ris.checkpoints import load_model
from pseudo_ris.ris.evaluation import at_original_size, margins
from pseudo_ris.ris.frames import frame_of
from pseudo_ris.ris.model import RisModel

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


def main(argv: Sequence[str]) -> int:
    """The command line above."""
    parser = argparse.ArgumentParser(prog="python -m pseudo_ris.ris.predict", description=__doc__.splitlines()[0])
    parser.add_argument("--image", type=Path, required=True, help="image file")
    parser.add_argument("--expression", action="append", required=True, help="what to find; may be given several times")
    parser.add_argument("--checkpoint", type=Path, required=True, help="best.pt or last.pt of a training")
    parser.add_argument("--output", type=Path, default=Path("overlay.png"), help="PNG to write (default: overlay.png)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:0 (default: auto)")
    arguments = parser.parse_args(argv)
    if arguments.output.suffix != ".png":
        raise UserError(f"--output {arguments.output}: the overlay is a PNG; give a name that ends in .png")
    require_file_place(arguments.output, "--output")
    if not all(expression.strip() for expression in arguments.expression):
        raise UserError("--expression: is empty; say what to find")
    try:
        image = decode_image(read_bytes(arguments.image), str(arguments.image))
    except BadInputError as error:
        raise UserError(f"--image {error}") from error
    device = pick_device(arguments.device)
    model, _ = load_model(arguments.checkpoint, device)
    masks = [segment(model, image, expression, device) for expression in arguments.expression]
    for expression, mask in zip(arguments.expression, masks, strict=True):
        print(f"{100 * mask.mean():.1f}% of the image: {expression}")
    overlay = io.BytesIO()
    draw_overlay(image, masks, arguments.expression).save(overlay, "png")
    write_output(arguments.output, overlay.getvalue())
    print(f"overlay: {arguments.output}")
    return 0


if __name__ == "__main__":
    run_recipe(main)
