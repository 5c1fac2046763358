import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from pseudo_ris.models.cutler.cascade_rcnn import ARCHITECTURES, CascadeMaskRCNN, paste_masks, rescale
from pseudo_ris.models.cutler.roi_heads import Detections, RoiPooler

MAX_DEMO_PARAMETERS = 1_600_000


@pytest.fixture(scope="module")
def demo():
    torch.manual_seed(0)
    return CascadeMaskRCNN(ARCHITECTURES["demo"]).eval()


def test_full_size_has_detectron2s_names():
    with torch.device("meta"):
        state = CascadeMaskRCNN(ARCHITECTURES["resnet50_fpn"]).state_dict()
    assert len(state) == 408
    assert sum(tensor.numel() for tensor in state.values()) == 71_834_143
    for name, shape in {
        "backbone.bottom_up.stem.conv1.weight": (64, 3, 7, 7),
        "backbone.bottom_up.res3.0.shortcut.norm.running_var": (512,),
        "backbone.bottom_up.res5.2.conv3.weight": (2048, 512, 1, 1),
        "backbone.fpn_lateral4.norm.bias": (256,),
        "proposal_generator.rpn_head.anchor_deltas.weight": (12, 256, 1, 1),
        "roi_heads.box_head.2.fc1.weight": (1024, 12544),
        "roi_heads.box_predictor.0.cls_score.weight": (2, 1024),
        "roi_heads.mask_head.mask_fcn4.weight": (256, 256, 3, 3),
        "roi_heads.mask_head.predictor.weight": (1, 256, 1, 1),
    }.items():
        assert tuple(state[name].shape) == shape


def test_demo_is_tiny(demo):
    assert sum(p.numel() for p in demo.parameters()) <= MAX_DEMO_PARAMETERS


def test_detections_are_sorted_inside_and_apart(demo):
    image = torch.randint(0, 256, (3, 100, 130), generator=torch.Generator().manual_seed(0))
    found = demo.detect(image, 0.0)
    assert len(found.boxes) > 1
    assert (found.scores.diff() <= 0).all()
    assert (found.boxes >= 0).all()
    assert (found.boxes <= torch.tensor([130.0, 100.0, 130.0, 100.0])).all()
    overlap = box_iou(found.boxes, found.boxes).fill_diagonal_(0)
    assert overlap.max() <= 0.5
    assert found.masks.shape == (len(found.boxes), 28, 28)


def test_a_higher_threshold_keeps_the_leading_detections(demo):
    image = torch.randint(0, 256, (3, 96, 96), generator=torch.Generator().manual_seed(1))
    everything = demo.detect(image, 0.0)
    threshold = float(everything.scores[len(everything.scores) // 2])
    some = demo.detect(image, threshold)
    count = int((everything.scores >= threshold).sum())
    torch.testing.assert_close(some.boxes, everything.boxes[:count])


def test_no_detection_gives_empty_arrays(demo):
    found = demo.detect(torch.zeros(3, 64, 64), 1.1)
    assert found.boxes.shape == (0, 4)
    assert paste_masks(found, 64, 64).shape == (0, 64, 64)


def test_padding_is_zero_after_normalising(demo):
    images = torch.full((1, 3, 33, 60), 200.0)
    padded = demo.normalize(images)
    assert padded.shape == (1, 3, 64, 64)
    assert (padded[:, :, 33:] == 0).all()
    assert (padded[:, :, :, 60:] == 0).all()
    torch.testing.assert_close(padded[0, 0, 0, 0], torch.tensor((200 - 123.675) / 58.395))


def test_regions_are_cut_from_the_level_that_suits_their_size():
    pooler = RoiPooler(7, 224)
    sides = torch.tensor([1.0, 111.9, 112.1, 223.9, 224.1, 447.9, 448.1, 5000.0])
    boxes = torch.stack([torch.zeros(8), torch.zeros(8), sides, sides], dim=1)
    assert pooler.levels(boxes).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_pooling_reads_the_right_image_and_level():
    features = [torch.full((2, 1, 64 // 2**level, 64 // 2**level), float(level)) for level in range(5)]
    for maps in features:
        maps[1] += 10
    small, large = torch.tensor([[90.0, 90.0, 140.0, 140.0]]), torch.tensor([[20.0, 20.0, 240.0, 240.0]])
    cut = RoiPooler(7, 112)(features, [torch.cat([large, small]), small])
    assert cut[:, 0, 3, 3].tolist() == [2.0, 0.0, 10.0]


def slow_paste(mask, box, height, width):
    """Bilinear interpolation of the mask at every pixel centre, zero outside, one pixel at a time."""
    side = len(mask)
    result = np.zeros((height, width), bool)
    for row in range(height):
        for column in range(width):
            u = (column + 0.5 - box[0]) / (box[2] - box[0]) * side - 0.5
            v = (row + 0.5 - box[1]) / (box[3] - box[1]) * side - 0.5
            value = 0.0
            for y in (int(np.floor(v)), int(np.floor(v)) + 1):
                for x in (int(np.floor(u)), int(np.floor(u)) + 1):
                    if 0 <= x < side and 0 <= y < side:
                        value += (1 - abs(v - y)) * (1 - abs(u - x)) * mask[y, x]
            result[row, column] = value >= 0.5
    return result


@pytest.mark.parametrize("box", [(3.2, 4.7, 20.1, 15.9), (0.0, 0.0, 24.0, 18.0), (11.3, 2.0, 12.4, 17.6)])
def test_pasting_agrees_with_the_slow_version(box):
    masks = torch.rand((1, 28, 28), generator=torch.Generator().manual_seed(2))
    found = Detections(torch.tensor([box]), torch.ones(1), masks)
    pasted = paste_masks(found, 18, 24)
    assert pasted.any()
    np.testing.assert_array_equal(pasted[0].numpy(), slow_paste(masks[0].double().numpy(), box, 18, 24))


def test_rescaling_clips_and_drops_empty_boxes():
    boxes = torch.tensor([[10.0, 10.0, 40.0, 30.0], [50.0, 5.0, 50.0, 9.0]])
    found = Detections(boxes, torch.tensor([0.9, 0.8]), torch.zeros(2, 28, 28))
    scaled = rescale(found, (25, 50), (50, 200))
    assert scaled.boxes.tolist() == [[40.0, 20.0, 160.0, 50.0]]
    assert scaled.scores.tolist() == pytest.approx([0.9])
