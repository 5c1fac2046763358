"""The full-size detector against the original CutLER's outputs, with reproducible weights (golden/cutler)."""

import dataclasses
import gc
import hashlib
import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from pseudo_ris.config import CutlerConfig
from pseudo_ris.images import decode_image, read_bytes
from pseudo_ris.masks.box_coding import clip, decode
from pseudo_ris.masks.cascade_rcnn import ARCHITECTURES, CascadeMaskRCNN
from pseudo_ris.masks.cutler import Cutler
from pseudo_ris.masks.roi_heads import DELTA_WEIGHTS

GOLDEN = Path(__file__).parent / "golden" / "cutler"
EXPECTED = {"rgb": "expected_0.npz", "bgr": "expected_0_bgr.npz"}
SETTINGS = CutlerConfig(architecture="resnet50_fpn", score_threshold=0.5, shortest_edge=800, longest_edge=1333)
CLASS_BIAS = {0: (-2.5, 0.0), 1: (-1.7, 0.0), 2: (0.4, 0.0)}
GAINS = {
    "conv3": 0.5,
    "shortcut": 0.7,
    "fpn_lateral2": 0.7,
    "fpn_lateral3": 0.7,
    "fpn_lateral4": 0.7,
    "fpn_lateral5": 0.7,
    "fpn_output2": 0.25,
    "fpn_output3": 0.15,
    "fpn_output4": 0.8,
    "fpn_output5": 2.0,
    "anchor_deltas": 0.3,
    "cls_score": 0.5,
    "bbox_pred": 0.7,
    "deconv": 2.0,
    "predictor": 2.0,
}
NEAR_TIE = 1e-3


def reproducible_tensor(name, like):
    """The golden weights' tensor of this name; only the name and the shape matter."""
    if name.endswith("num_batches_tracked"):
        return torch.zeros_like(like)
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    z = torch.randn(like.shape, generator=generator)
    layer, kind = name.split(".")[-2:]
    if layer == "norm":
        return {"weight": 1 + 0.1 * z, "bias": 0.1 * z, "running_mean": 0.1 * z, "running_var": 1 + 0.25 * z.abs()}[kind]
    if kind == "bias":
        stage = name.split(".")[-3]
        return torch.tensor(CLASS_BIAS[int(stage)]) if layer == "cls_score" else 0.05 * z
    return z * (GAINS.get(layer, 1.0) * math.sqrt(2 / math.prod(like.shape[1:])))


def decode_rle(counts, height, width):
    """Mask of a COCO run-length string.

    Runs of zeros and ones by turns, column by column, five bits a character, lowest first; from the fourth run on the
    string holds the difference to the run before the last.
    """
    runs, position = [], 0
    while position < len(counts):
        value, shift, more = 0, 0, True
        while more:
            character = ord(counts[position]) - 48
            value |= (character & 0x1F) << shift
            more = bool(character & 0x20)
            position += 1
            shift += 5
            if not more and character & 0x10:
                value |= -1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T


@pytest.fixture(scope="module")
def image():
    return decode_image(read_bytes(GOLDEN / "image_0.jpg"), "image_0.jpg")


@pytest.fixture(scope="module")
def model():
    built = CascadeMaskRCNN(ARCHITECTURES["resnet50_fpn"])
    built.load_state_dict({name: reproducible_tensor(name, value) for name, value in built.state_dict().items()})
    yield built.eval()
    gc.collect()


@pytest.fixture(scope="module", params=list(EXPECTED))
def case(request, image, model):
    """The detector, its expected outputs, its input tensor and its features, for one channel order."""
    cutler = Cutler(model, dataclasses.replace(SETTINGS, channel_order=request.param))
    expected = dict(np.load(GOLDEN / EXPECTED[request.param]))
    tensor = cutler._to_tensor(cutler._resize(image))
    with torch.no_grad():
        features = model.backbone(model.normalize(tensor[None]))
    return cutler, expected, tensor, features


@pytest.mark.slow
def test_input_is_the_originals(case):
    cutler, expected, tensor, _ = case
    pixels = np.ascontiguousarray(tensor.permute(1, 2, 0).numpy())
    assert hashlib.sha1(pixels.tobytes()).hexdigest() == str(expected["resized_sha1"])
    normalized = cutler.model.normalize(tensor[None])
    assert normalized.shape[-2:] == tuple(expected["padded_hw"])
    np.testing.assert_allclose(normalized[0, :, :8, :8].numpy(), expected["input_norm_corner"], atol=1e-5)


@pytest.mark.slow
def test_features(case):
    _, expected, _, features = case
    for level, maps in zip(("p2", "p3", "p4", "p5", "p6"), features, strict=True):
        assert tuple(maps.shape) == tuple(expected[f"{level}_shape"])
        values = maps.double()
        statistics = [values.mean().item(), values.std(unbiased=False).item(), values.norm().item()]
        np.testing.assert_allclose(statistics, expected[f"{level}_mean_std_l2"], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(maps[0, 0, :8, :8].numpy(), expected[f"{level}_corner"], atol=5e-4)


@pytest.mark.slow
def test_proposals(case):
    cutler, expected, tensor, features = case
    generator = cutler.model.proposal_generator
    with torch.no_grad():
        (proposals,) = generator.propose(generator(features), [tuple(tensor.shape[1:])])
    logits = proposals.logits.sort(descending=True).values
    np.testing.assert_allclose(logits.numpy(), np.sort(expected["proposal_logits"])[::-1], atol=1e-3)
    distance = torch.cdist(proposals.boxes, torch.from_numpy(expected["proposal_boxes"]), p=float("inf"))
    assert (distance.min(dim=1).values < 0.05).float().mean() >= 0.98


@pytest.mark.slow
def test_cascade_stages(case):
    cutler, expected, tensor, features = case
    size = tuple(tensor.shape[1:])
    boxes = torch.from_numpy(expected["proposal_boxes"])
    for stage, weights in enumerate(DELTA_WEIGHTS):
        boxes = clip(boxes, *size)
        with torch.no_grad():
            logits, deltas = cutler.model.roi_heads.run_stage(stage, features, [boxes])
        np.testing.assert_allclose(logits.numpy(), expected["stage_cls_logits"][stage], atol=2e-3)
        np.testing.assert_allclose(deltas.numpy(), expected["stage_deltas"][stage], atol=2e-3)
        boxes = decode(boxes, deltas, weights)


@pytest.mark.slow
def test_detections(case, image):
    cutler, expected, _, _ = case
    found = cutler.detect(image)
    scores = expected["scores"]
    clear = int((scores > SETTINGS.score_threshold + NEAR_TIE).sum())
    possible = int((scores > SETTINGS.score_threshold - NEAR_TIE).sum())
    assert clear <= len(found.scores) <= possible
    assert (np.diff(found.scores) <= 0).all()
    overlap = box_iou(torch.from_numpy(expected["boxes"][:possible]), torch.from_numpy(found.boxes)).numpy()
    partner = overlap.argmax(axis=1)
    assert len(set(partner[:clear])) == clear
    for row, column in enumerate(partner[:clear]):
        np.testing.assert_allclose(found.boxes[column], expected["boxes"][row], atol=0.5)
        np.testing.assert_allclose(found.scores[column], scores[row], atol=1e-3)
        mask = decode_rle(str(expected["mask_rle"][row]), *expected["orig_hw"])
        assert mask.sum() == expected["mask_areas"][row]
        assert (mask & found.masks[column]).sum() / (mask | found.masks[column]).sum() >= 0.99
