"""The full-size detector against the original CutLER's outputs, with reproducible weights (golden/cutler)."""

import dataclasses
import gc
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from pseudo_ris.checkpoints.random_weights import random_tensor
from pseudo_ris.config import CutlerConfig
from pseudo_ris.io.images import decode_image, read_bytes
from pseudo_ris.models.cutler.box_coding import clip, decode
from pseudo_ris.models.cutler.detector import Cutler
from pseudo_ris.models.cutler.roi_heads import DELTA_WEIGHTS

GOLDEN = Path(__file__).parent / "golden" / "cutler"
EXPECTED = {"rgb": "expected_0.npz", "bgr": "expected_0_bgr.npz"}
SETTINGS = CutlerConfig(architecture="resnet50_fpn", score_threshold=0.5, shortest_edge=800, longest_edge=1333)
# The one deviation from the library's random weights: these let more objects pass.
OBJECT_BIAS = (-2.5, -1.7, 0.4)
NEAR_TIE = 1e-3


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
def model(tmp_path_factory):
    """The detector as CutLER's checkpoint gives it: a file {"model": tensors by detectron2's names}."""
    path = tmp_path_factory.mktemp("cutler") / "cutler.pth"
    names = json.loads((GOLDEN / "manifest.json").read_text())["tensors"]
    tensors = {entry["name"]: torch.zeros(entry["shape"], dtype=getattr(torch, entry["dtype"])) for entry in names}
    state = {name: random_tensor("cutler", name, like) for name, like in tensors.items()}
    for stage, bias in enumerate(OBJECT_BIAS):
        state[f"roi_heads.box_predictor.{stage}.cls_score.bias"] = torch.tensor([bias, 0.0])
    torch.save({"model": state}, path)
    config = dataclasses.replace(SETTINGS, weights=str(path))
    yield Cutler.from_config(config, "cpu").model
    path.unlink()
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
@pytest.mark.parametrize("threads", [1, 2])
def test_detections(case, image, threads):
    cutler, expected, _, _ = case
    torch.set_num_threads(threads)
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
