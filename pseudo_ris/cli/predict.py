"""Segments what expressions refer to in one image, and draws it.

pseudo-ris predict --image FILE --expression "the red ball on the left" --checkpoint ris/run/best.pt
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from pseudo_ris.cli.parsing import CommandParser
from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.io.device import pick_device
from pseudo_ris.io.files import require_file_place, write_output
from pseudo_ris.io.images import decode_image, read_bytes
from pseudo_ris.ris.evaluation.predict import draw_overlay, segment
from pseudo_ris.ris.models.checkpoints import load_model


def main(argv: Sequence[str]) -> int:
    """Runs the command with options `argv`; returns the exit code. Raises UserError."""
    arguments = make_parser().parse_args(argv)
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


def make_parser() -> CommandParser:
    parser = CommandParser("predict", __doc__)
    parser.add_argument("--image", type=Path, required=True, help="image file")
    parser.add_argument("--expression", action="append", required=True, help="what to find; repeatable")
    parser.add_argument("--checkpoint", type=Path, required=True, help="best.pt or last.pt of a training")
    parser.add_argument("--output", type=Path, default=Path("overlay.png"), help="PNG to write")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:0")
    return parser
