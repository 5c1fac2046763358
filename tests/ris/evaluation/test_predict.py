"""One image and what is to be found in it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from demo_checkpoint import write_demo_checkpoint
from PIL import Image
from plain_models import ColourModel, block, painted

from pseudo_ris.cli.predict import main
from pseudo_ris.errors import UserError
from pseudo_ris.ris.config import DataConfig
from pseudo_ris.ris.evaluation.metrics import Overlap
from pseudo_ris.ris.evaluation.predict import LARGEST_SIDE, SMALLEST_SIDE, draw_overlay, segment
from pseudo_ris.visual.drawing import COLOURS

RED, GREEN = block(90, 140, slice(10, 60), slice(10, 70)), block(90, 140, slice(30, 80), slice(80, 130))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    return str(write_demo_checkpoint(tmp_path_factory.mktemp("trained") / "best.pt", DataConfig(dataset="drawn")))


@pytest.fixture
def photo(tmp_path) -> str:
    Image.fromarray(painted(RED, GREEN)).save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


@pytest.mark.parametrize("frame", ["letterbox", "stretch"])
@pytest.mark.parametrize(("expression", "truth"), [("red", RED), ("green thing", GREEN)])
def test_the_mask_is_what_the_expression_means_at_the_images_size(frame, expression, truth):
    mask = segment(ColourModel(128, frame), painted(RED, GREEN), expression, torch.device("cpu"))
    assert mask.shape == (90, 140)
    assert Overlap.of(mask, truth).iou > 0.93


def test_masks_and_expressions_share_a_colour():
    overlay = np.asarray(draw_overlay(np.full((90, 140, 3), 120, np.uint8), [RED, GREEN], ["red", "green"]))
    height = round(90 * SMALLEST_SIDE / 140)
    picture, legend = overlay[:height].reshape(-1, 3), overlay[height:].reshape(-1, 3)
    for colour in COLOURS[:2]:
        assert (picture == colour).all(1).any()
        assert (np.abs(legend.astype(int) - colour).max(1) < 12).any()


@pytest.mark.parametrize(("height", "width", "side"), [(10, 20, SMALLEST_SIDE), (700, 500, 700), (5000, 20, LARGEST_SIDE)])
def test_overlays_are_bounded(height, width, side):
    mask = np.zeros((height, width), bool)
    overlay = draw_overlay(np.zeros((height, width, 3), np.uint8), [mask] * 10, ["word " * 500] * 10)
    assert overlay.width == side
    assert overlay.height < side + 10 * 18 + 20


def test_the_command_draws_all_expressions_and_prints_their_share(checkpoint, photo, tmp_path, capsys):
    output = tmp_path / "new" / "overlay.png"
    arguments = ["--image", photo, "--checkpoint", checkpoint, "--output", str(output), "--device", "cpu"]
    assert main([*arguments, "--expression", "the red ball", "--expression", "a green cube on the left"]) == 0
    first, second, last = capsys.readouterr().out.splitlines()
    assert first.endswith("% of the image: the red ball") and 0 <= float(first.split("%")[0]) <= 100
    assert second.endswith("% of the image: a green cube on the left")
    assert last == f"overlay: {output}"
    with Image.open(output) as overlay:
        assert overlay.width == SMALLEST_SIDE


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"--image": "nowhere.png"}, "--image nowhere.png: cannot be read"),
        ({"--image": __file__}, "not a readable image"),
        ({"--checkpoint": "nowhere.pt"}, "nowhere.pt: there is no such checkpoint"),
        ({"--checkpoint": __file__}, "not a readable checkpoint"),
        ({"--expression": "  "}, "--expression: is empty"),
        ({"--output": "overlay.jpg"}, r"ends in \.png"),
        ({"--device": "gpu9"}, "--device gpu9: not a device"),
    ],
)
def test_what_cannot_be_done_is_one_line(checkpoint, photo, tmp_path, changed, message):
    options = {"--image": photo, "--checkpoint": checkpoint, "--expression": "red", "--output": str(tmp_path / "o.png")}
    with pytest.raises(UserError, match=message) as caught:
        main([text for pair in (options | changed).items() for text in pair])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "o.png").exists()


def test_a_folder_cannot_be_the_overlay(photo, tmp_path):
    (tmp_path / "o.png").mkdir()
    with pytest.raises(UserError, match=r"--output .*o\.png: is a folder; give the name of a file"):
        main(["--image", photo, "--checkpoint", "nowhere.pt", "--expression", "red", "--output", str(tmp_path / "o.png")])
