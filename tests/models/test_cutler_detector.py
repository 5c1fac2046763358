import dataclasses

import numpy as np
import pytest
import torch

from pseudo_ris.checkpoints.weights import save_weights
from pseudo_ris.config import CutlerConfig
from pseudo_ris.errors import UserError
from pseudo_ris.models.cutler.cascade_rcnn import ARCHITECTURES, CascadeMaskRCNN
from pseudo_ris.models.cutler.detector import Cutler, resized_size
from pseudo_ris.models.cutler.roi_heads import Detections

CONFIG = CutlerConfig(score_threshold=0.0, shortest_edge=64, longest_edge=96)


class OneBox:
    """Stands for the network: remembers what it was fed and finds fixed boxes with full masks."""

    pixel_mean = torch.zeros(3, 1, 1)

    def __init__(self, boxes):
        self.boxes = torch.tensor(boxes)

    def detect(self, image, score_threshold):
        self.image = image
        scores = torch.linspace(0.9, 0.6, len(self.boxes))
        return Detections(self.boxes, scores, torch.ones(len(self.boxes), 28, 28))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("weights") / "cutler.safetensors"
    save_weights(CascadeMaskRCNN(ARCHITECTURES["demo"]), path, {})
    return path


def test_boxes_and_masks_are_in_the_frame_of_the_image():
    model = OneBox([[16.0, 8.0, 32.0, 24.0]])
    found = Cutler(model, CONFIG).detect(np.zeros((128, 192, 3), np.uint8))
    assert model.image.shape == (3, 64, 96)
    assert found.boxes.tolist() == [[32.0, 16.0, 64.0, 48.0]]
    expected = np.zeros((128, 192), bool)
    expected[16:48, 32:64] = True
    assert (found.masks[0] & ~expected).sum() == 0
    assert found.masks[0].sum() >= 0.95 * expected.sum()


def test_instances_without_a_pixel_are_left_out():
    model = OneBox([[10.1, 10.1, 10.3, 10.3], [16.0, 8.0, 32.0, 24.0]])
    found = Cutler(model, CONFIG).detect(np.zeros((64, 96, 3), np.uint8))
    assert found.scores.tolist() == pytest.approx([0.6])
    assert len(found.masks) == len(found.boxes) == 1


def test_channel_order():
    image = np.zeros((64, 96, 3), np.uint8)
    image[..., 0] = 200
    for order, channel in (("rgb", 0), ("bgr", 2)):
        model = OneBox([[16.0, 8.0, 32.0, 24.0]])
        Cutler(model, dataclasses.replace(CONFIG, channel_order=order)).detect(image)
        assert model.image[channel].min() == 200
        assert model.image.sum() == 200 * 64 * 96


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(1200, 1800, (800, 1200)), (480, 640, (800, 1067)), (640, 480, (1067, 800)), (300, 1200, (333, 1333))],
)
def test_resized_size_is_detectron2s(height, width, expected):
    assert resized_size(height, width, 800, 1333) == expected


def test_very_long_images_keep_a_pixel():
    assert resized_size(2, 5000, 256, 427) == (1, 427)


def test_from_config_reads_the_weights(weights):
    config = dataclasses.replace(CONFIG, weights=str(weights))
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    found = Cutler.from_config(config, "cpu").detect(image)
    again = Cutler.from_config(config, "cpu").detect(image)
    assert len(found.scores) > 0
    assert found.masks.dtype == bool
    assert found.masks.shape == (len(found.scores), 70, 90)
    np.testing.assert_array_equal(found.boxes, again.boxes)


@pytest.mark.slow
def test_weights_of_another_size_are_refused(weights):
    config = dataclasses.replace(CONFIG, architecture="resnet50_fpn", weights=str(weights))
    with pytest.raises(UserError, match="resnet50_fpn"):
        Cutler.from_config(config, "cpu")


def test_missing_weights_are_named(tmp_path):
    config = dataclasses.replace(CONFIG, weights=str(tmp_path / "absent.pth"))
    with pytest.raises(UserError, match=r"absent\.pth"):
        Cutler.from_config(config, "cpu")
