"""Predictions as pictures and run lengths."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from plain_models import ColourModel, block, painted, target

from pseudo_ris.errors import UserError
from pseudo_ris.io.segmentation import decode_segmentation
from pseudo_ris.ris.data.targets import Target
from pseudo_ris.ris.evaluation.metrics import Overlap
from pseudo_ris.ris.evaluation.predictions import PREDICTED, SIDE, TRUE, PredictionFolder, draw_prediction
from pseudo_ris.ris.evaluation.scores import Prediction, tally

RED, GREEN = block(40, 60, slice(5, 30), slice(10, 50)), block(40, 60, slice(20, 38), slice(30, 58))


def scene(image: str, sentences: tuple[str, ...] = ("red", "green one"), of: str = "") -> Target:
    return target(image + of, painted(RED, GREEN), RED, sentences, image=image)


def written(folder: Path, *targets: Target) -> list[dict]:
    predictions = PredictionFolder(folder)
    model = ColourModel(64, "letterbox")
    tally(model, targets, batch_size=2, precision="fp32", device=torch.device("cpu"), predictions=predictions.add)
    predictions.close()
    return json.loads((folder / "predictions.json").read_text())


def prediction(mask: np.ndarray, truth: np.ndarray, sentence: str = "red") -> Prediction:
    pixels = np.full((*mask.shape, 3), 120, np.uint8)
    return Prediction(target("a.png", pixels, truth, (sentence,), image="a.png"), 0, 0, mask, truth, Overlap.of(mask, truth))


def shows(picture: Image.Image, colour: tuple[int, int, int]) -> bool:
    return bool((np.asarray(picture) == colour).all(2).any())


def test_every_prediction_has_a_picture_and_an_entry(tmp_path):
    entries = written(
        tmp_path,
        scene("COCO_train2014_000000000042.jpg", of=", mask 3"),
        scene("a/b.png", of=", mask 9/1.png"),
        scene("c, mask 1.png", ("red",), of=", ref 7"),
    )
    assert [(each["image"], each["target"], each["sentence"], each["picture"]) for each in entries] == [
        ("COCO_train2014_000000000042.jpg", "COCO_train2014_000000000042.jpg, mask 3", "red", "42_0_0.png"),
        ("COCO_train2014_000000000042.jpg", "COCO_train2014_000000000042.jpg, mask 3", "green one", "42_0_1.png"),
        ("a/b.png", "a/b.png, mask 9/1.png", "red", "a__b_1_0.png"),
        ("a/b.png", "a/b.png, mask 9/1.png", "green one", "a__b_1_1.png"),
        ("c, mask 1.png", "c, mask 1.png, ref 7", "red", "c__mask_1_2_0.png"),
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"predictions.json", *(each["picture"] for each in entries)}


def test_entries_hold_the_predicted_mask_at_original_size(tmp_path):
    red, green = written(tmp_path, scene("a.png"))
    for entry, mask in ((red, RED), (green, GREEN)):
        decoded = decode_segmentation(entry["segmentation"], 40, 60)
        assert Overlap.of(decoded, mask).iou > 0.9
        assert entry["iou"] == Overlap.of(decoded, RED).iou


@pytest.mark.parametrize(
    "name", ["../../etc/x.png", "日本/" + "語" * 90 + ".png", "-.png", "a b\n.png", "x" * 400, ". .png", ""]
)
def test_any_name_gives_a_file_in_the_folder(tmp_path, name):
    folder = tmp_path / "a" / "b" / "c"
    (entry,) = written(folder, scene(name, ("red",)))
    assert entry["target"] == name
    assert [path.name for path in folder.glob("*_0_0.png")] == [entry["picture"]]
    assert len(list(tmp_path.rglob("*.png"))) == 1


def test_masks_of_one_image_do_not_share_a_picture(tmp_path):
    entries = written(tmp_path, scene("a.png", of=", mask 1"), scene("a.png", of=", mask 2"), scene("a.jpg"))
    assert len({each["picture"] for each in entries}) == 6


def test_the_prediction_is_tinted_and_the_truth_outlined():
    picture = draw_prediction(prediction(RED, GREEN))
    assert shows(picture, PREDICTED)
    assert shows(picture, TRUE)
    scale = SIDE / 60
    inside = np.asarray(picture)[round(10 * scale), round(20 * scale)].astype(int)
    assert inside[0] > inside[1] + 30  # reddish grey
    # of the truth there is no more than the outline
    assert np.asarray(picture)[round(34 * scale), round(45 * scale)].tolist() == [120, 120, 120]
    nothing = draw_prediction(prediction(np.zeros_like(RED), GREEN))
    assert not shows(nothing.crop((0, 0, SIDE, round(40 * scale))), PREDICTED)


@pytest.mark.parametrize(("height", "width"), [(2000, 1500), (9, 12), (10, 3000), (600, 8)])
@pytest.mark.parametrize("sentence", ["red", "red " + "word " * 100, "red ボール"])
def test_pictures_are_bounded(height, width, sentence):
    mask = block(height, width, slice(0, height // 2), slice(0, width // 2))
    picture = draw_prediction(prediction(mask, mask, sentence))
    assert picture.width == SIDE
    assert picture.height <= SIDE + 60


def test_predictions_of_an_earlier_run_are_removed_and_nothing_else(tmp_path):
    first = written(tmp_path, scene("a.png"), scene("b.png"))
    (tmp_path / "mine_0_0.png").write_bytes(b"kept")
    second = written(tmp_path, scene("c.png"))
    assert {path.name for path in tmp_path.iterdir()} == {
        "predictions.json",
        "mine_0_0.png",
        *(each["picture"] for each in second),
    }
    assert not {each["picture"] for each in first} & {each["picture"] for each in second}


def test_a_listing_from_elsewhere_removes_nothing_outside_the_folder(tmp_path):
    outside, folder = tmp_path / "x.png", tmp_path / "predictions"
    folder.mkdir()
    outside.write_bytes(b"kept")
    (folder / "predictions.json").write_text(json.dumps([{"picture": "../x.png"}, {"picture": str(outside)}]))
    written(folder, scene("a.png"))
    assert outside.read_bytes() == b"kept"


def test_a_run_that_did_not_end_leaves_no_listing(tmp_path):
    written(tmp_path, scene("a.png"))
    unfinished = PredictionFolder(tmp_path)
    unfinished.add(prediction(RED, GREEN))
    assert [path.name for path in tmp_path.iterdir()] == ["a_0_0.png"]


def test_a_folder_that_cannot_be_written_is_an_error_at_the_start(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        PredictionFolder(tmp_path / "file" / "predictions")
