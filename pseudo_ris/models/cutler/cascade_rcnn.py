"""Class-agnostic Cascade Mask R-CNN (ResNet-FPN), CutLER's detector.

Computes what detectron2's GeneralizedRCNN computes, under detectron2's tensor names, so CutLER's checkpoint loads as it
is; settings as in CutLER's `cascade_mask_rcnn_R_50_FPN.yaml`. Other sizes of the network are other `CascadeConfig`s.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from pseudo_ris.models.cutler.box_coding import clip
from pseudo_ris.models.cutler.resnet_fpn import FeaturePyramid, ResNet
from pseudo_ris.models.cutler.roi_heads import CascadeHeads, Detections, keep_nonempty
from pseudo_ris.models.cutler.rpn import ProposalGenerator

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)
SIZE_DIVISOR = 32
MASK_THRESHOLD = 0.5


@dataclass(frozen=True)
class CascadeConfig:
    """Dimensions of the network.

    Args:
        stem_channels: after the first convolution.
        inner_channels: of the 3x3 convolutions in res2 ... res5 ...
        stage_channels: ... of these stages' outputs ...
        stage_blocks: ... and bottlenecks in each.
        pyramid_channels: of p2 ... p6.
        anchor_sizes: square root of the anchors' area on p2 ... p6, pixels.
        proposals_per_level: anchors of each level that enter the proposals' non-maximum suppression ...
        proposals: ... and proposals that leave it.
        fc_width: of the box heads.
        mask_channels: of the mask head ...
        mask_convolutions: ... and its 3x3 convolutions.
        canonical_size: boxes of this size are looked at on p4, half of it on p3.
    """

    stem_channels: int
    inner_channels: tuple[int, int, int, int]
    stage_channels: tuple[int, int, int, int]
    stage_blocks: tuple[int, int, int, int]
    pyramid_channels: int
    anchor_sizes: tuple[int, int, int, int, int]
    proposals_per_level: int
    proposals: int
    fc_width: int
    mask_channels: int
    mask_convolutions: int
    canonical_size: float


ARCHITECTURES = {
    "resnet50_fpn": CascadeConfig(
        stem_channels=64,
        inner_channels=(64, 128, 256, 512),
        stage_channels=(256, 512, 1024, 2048),
        stage_blocks=(3, 4, 6, 3),
        pyramid_channels=256,
        anchor_sizes=(32, 64, 128, 256, 512),
        proposals_per_level=1000,
        proposals=1000,
        fc_width=1024,
        mask_channels=256,
        mask_convolutions=4,
        canonical_size=224,
    ),
    "demo": CascadeConfig(
        stem_channels=16,
        inner_channels=(24, 40, 64, 96),
        stage_channels=(64, 112, 192, 256),
        stage_blocks=(1, 2, 2, 1),
        pyramid_channels=48,
        anchor_sizes=(24, 48, 96, 160, 240),
        proposals_per_level=200,
        proposals=150,
        fc_width=112,
        mask_channels=32,
        mask_convolutions=3,
        canonical_size=128,
    ),
}


class CascadeMaskRCNN(nn.Module):
    """The detector; in eval mode `detect` is its use."""

    def __init__(self, config: CascadeConfig) -> None:
        super().__init__()
        self.config = config
        resnet = ResNet(config.stem_channels, config.inner_channels, config.stage_channels, config.stage_blocks)
        channels = config.pyramid_channels
        self.backbone = FeaturePyramid(resnet, config.stage_channels, channels)
        self.proposal_generator = ProposalGenerator(channels, config.anchor_sizes, config.proposals_per_level, config.proposals)
        self.roi_heads = CascadeHeads(
            channels, config.fc_width, config.mask_channels, config.mask_convolutions, config.canonical_size
        )
        self.register_buffer("pixel_mean", torch.tensor(PIXEL_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(PIXEL_STD).view(3, 1, 1), persistent=False)

    def normalize(self, images: torch.Tensor) -> torch.Tensor:
        """Pixels 0 ... 255 [b, 3, h, w] -> normalised float32, padded with zeros at the end to multiples of 32."""
        height, width = images.shape[-2:]
        normalized = (images.float() - self.pixel_mean) / self.pixel_std
        return F.pad(normalized, (0, -width % SIZE_DIVISOR, 0, -height % SIZE_DIVISOR))

    @torch.no_grad()
    def detect(self, image: torch.Tensor, score_threshold: float) -> Detections:
        """Objects in one resized image [3, h, w], pixels 0 ... 255, that score `score_threshold` or more."""
        size = (image.shape[1], image.shape[2])
        # The backbone may be in half precision; boxes and scores are always computed in single.
        backbone_dtype = next(self.backbone.parameters()).dtype
        features = [level.float() for level in self.backbone(self.normalize(image[None]).to(backbone_dtype))]
        (proposals,) = self.proposal_generator.propose(self.proposal_generator(features), [size])
        return self.roi_heads.detect(features, proposals.boxes, size, score_threshold)


def rescale(detections: Detections, size: tuple[int, int], new_size: tuple[int, int]) -> Detections:
    """Detections in an image of `size` (height, width) moved to one of `new_size`: clipped, empty boxes dropped."""
    scale_y, scale_x = new_size[0] / size[0], new_size[1] / size[1]
    scaled = detections.boxes * detections.boxes.new_tensor([scale_x, scale_y, scale_x, scale_y])
    return keep_nonempty(detections, clip(scaled, *new_size))


def paste_masks(detections: Detections, height: int, width: int) -> torch.Tensor:
    """Masks in the frame of the image: bool [n, height, width], on the CPU.

    A box's mask is stretched over the box bilinearly, sampled at pixel centres, and thresholded at 0.5 (detectron2
    `paste_masks_in_image`).
    """
    canvas = torch.zeros((len(detections.boxes), height, width), dtype=torch.bool)
    for mask, box, target in zip(detections.masks.cpu(), detections.boxes.cpu(), canvas, strict=True):
        left, top = (int(edge) for edge in (box[:2].floor() - 1).clamp(min=0))
        right, bottom = min(int(box[2].ceil()) + 1, width), min(int(box[3].ceil()) + 1, height)
        x = _in_box_frame(torch.arange(left, right), box[0], box[2])
        y = _in_box_frame(torch.arange(top, bottom), box[1], box[3])
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
        stretched = F.grid_sample(mask[None, None], grid[None], align_corners=False)
        target[top:bottom, left:right] = stretched[0, 0] >= MASK_THRESHOLD
    return canvas


def _in_box_frame(pixels: torch.Tensor, start: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
    """Pixel centres in grid_sample's coordinates: -1 at the start of the box, 1 at its end."""
    return (pixels + 0.5 - start) / (end - start) * 2 - 1
