"""Predictions as files: a picture of each, and predictions.json with all their masks."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

from PIL import Image

from pseudo_ris.io.files import prepare_folder, write_atomic, writing
from pseudo_ris.io.image_ids import image_id_of
from pseudo_ris.io.images import decode_image
from pseudo_ris.pairs.pair_set import Rle
from pseudo_ris.ris.data.targets import Target
from pseudo_ris.ris.evaluation.scores import Prediction
from pseudo_ris.visual.drawing import COLOURS, Layer, draw_labelled, draw_masks

FILE = "predictions.json"
SIDE = 480
PREDICTED, TRUE = COLOURS[0], COLOURS[2]
MAX_STEM = 120
LISTED_PICTURE = re.compile(r'"picture": "([\w.-]+\.png)"', re.ASCII)


class PredictionFolder:
    """A folder that receives the predictions of a tally.

    folder = PredictionFolder(Path("predictions/val"))
    tally(model, targets, ..., predictions=folder.add)
    folder.close()

    predictions.json is a list, in the order of the predictions, of {"image", "target" (its name), "sentence", "segmentation"
    (COCO's run lengths, at the image's own size), "iou" (at that size), "picture" (the file beside it)}. A folder without it
    is of a run that did not end. Predictions of an earlier run are removed first. All of this raises UserError when a file
    cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._entries: list[dict[str, Any]] = []
        prepare_folder(folder)
        with writing(folder):
            _remove_earlier(folder)

    def add(self, prediction: Prediction) -> None:
        """Writes the picture and keeps the mask. Raises BadInputError when the image can no longer be read."""
        target = prediction.target
        picture = f"{_stem(target)}_{prediction.number}_{prediction.sentence}.png"
        encoded = io.BytesIO()
        draw_prediction(prediction).save(encoded, "png")
        write_atomic(self.folder / picture, encoded.getvalue())
        self._entries.append(
            {
                "image": target.image,
                "target": target.name,
                "sentence": target.sentences[prediction.sentence],
                "segmentation": Rle.of(prediction.mask).segmentation,
                "iou": prediction.overlap.iou,
                "picture": picture,
            }
        )

    def close(self) -> None:
        """Writes predictions.json."""
        write_atomic(self.folder / FILE, json.dumps(self._entries, indent=1) + "\n")


def draw_prediction(prediction: Prediction) -> Image.Image:
    """The image with the predicted mask tinted and outlined, over its sentence; the truth is outlined in another colour.

    SIDE pixels wide, at most that high plus the legend. Raises BadInputError when the image cannot be read.
    """
    target = prediction.target
    image = decode_image(target.read_image(), target.name)
    picture = draw_masks(image, [Layer(prediction.mask, PREDICTED, tint=0.4), Layer(prediction.truth, TRUE, tint=0)], SIDE)
    legend = [(target.sentences[prediction.sentence], PREDICTED), (f"truth, IoU {prediction.overlap.iou:.3f}", TRUE)]
    return draw_labelled(picture, legend, (SIDE, picture.shape[0]), len(legend))


def _stem(target: Target) -> str:
    return re.sub(r"[^\w.-]", "_", image_id_of(target.image), flags=re.ASCII)[-MAX_STEM:]


def _remove_earlier(folder: Path) -> None:
    listing = folder / FILE
    if listing.is_file():
        for name in LISTED_PICTURE.findall(listing.read_text(encoding="utf-8", errors="replace")):
            (folder / name).unlink(missing_ok=True)
        listing.unlink()
