"""configs/paper.yaml cuts the crops of the released stage 2 (golden/released_crops)."""

from pathlib import Path

import numpy as np
import pytest
from coca_recipe import GOLDEN

from pseudo_ris.captions.crops import CROP_SETS, cut_crops
from pseudo_ris.config import CaptionGenerationConfig
from pseudo_ris.io.images import decode_image
from pseudo_ris.records import ImageRecord
from pseudo_ris.stages.settings import parse_config
from pseudo_ris.storage.mask_store import MaskStore

RELEASED = GOLDEN / "released_crops"
PAPER = Path(__file__).parents[2] / "configs" / "paper.yaml"
# The golden crops are float16: half a step between 2 and 4.
ROUNDING = 9.8e-4


@pytest.mark.parametrize("image_id", ["13", "101"])
def test_every_pixel(image_id):
    """Measured: within 9.8e-4, the rounding of the golden file. A grey level is 0.015."""
    golden = np.load(RELEASED / "expected.npz")
    config = parse_config(CaptionGenerationConfig, ["--config", str(PAPER)]).crops
    path = RELEASED / "images" / f"COCO_train2014_{int(image_id):012}.png"
    image = decode_image(path.read_bytes(), path.name)
    stored = MaskStore(RELEASED / "masks").read(ImageRecord(image_id, path.name, path.read_bytes))
    _, masks = stored.decode(*image.shape[:2])
    for crop_set in CROP_SETS:
        expected = golden[f"{image_id}/{crop_set}"].astype(np.float32)
        crops = cut_crops(image, masks, crop_set, expected.shape[-1], config)
        np.testing.assert_allclose(crops.numpy(), expected, rtol=0, atol=ROUNDING, err_msg=crop_set)
