"""SAM, which draws the masks: its architectures and the adapter.

This module, automatic_masks.py, image_encoder.py and prompt_decoder.py are the only ones that import segment_anything.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from segment_anything import sam_model_registry
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn
from torch.nn import functional

from pseudo_ris.checkpoints.weights import ready_model
from pseudo_ris.config import SamConfig
from pseudo_ris.io.device import in_precision
from pseudo_ris.models.cutler.cascade_rcnn import ARCHITECTURES
from pseudo_ris.models.cutler.resnet_fpn import FeaturePyramid, ResNet
from pseudo_ris.models.offload import weight_bytes
from pseudo_ris.models.sam.automatic_masks import AutomaticMasks, SamMasks

DEMO_IMAGE_SIZE = 256
DEMO_PATCH_SIZE = 8
DEMO_ENCODER_WIDTH = 96
DEMO_DECODER_WIDTH = 64


def build_sam(architecture: str) -> Sam:
    """An untrained SAM in eval mode: "vit_b", "vit_l", "vit_h" as published, or the tiny "demo".

    Raises ValueError for another architecture.
    """
    if architecture == "demo":
        return _build_demo_sam()
    if architecture not in ("vit_b", "vit_l", "vit_h"):
        raise ValueError(f"sam.architecture: {architecture!r} is not one of demo, vit_b, vit_l, vit_h")
    return sam_model_registry[architecture](checkpoint=None)


class PyramidPatchEmbed(nn.Module):
    """Image tokens from a feature pyramid, in place of SAM's one strided convolution.

    A vision transformer learns to see borders far more slowly than convolutions do (Xiao et al. 2021, "Early convolutions help
    transformers see better"), too slowly for a model that must be trained in minutes. The pyramid is the demo CutLER's, whose
    trained weights it starts from. Its batch normalisation always uses the stored statistics.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        config = ARCHITECTURES["demo"]
        resnet = ResNet(config.stem_channels, config.inner_channels, config.stage_channels, config.stage_blocks)
        self.pyramid = FeaturePyramid(resnet, config.stage_channels, config.pyramid_channels)
        # p2 at stride 4 gives four values a channel and token; p3, p4 and p5 give one.
        self.join = nn.Conv2d(7 * config.pyramid_channels, width, 1)

    def train(self, mode: bool = True) -> PyramidPatchEmbed:
        super().train(mode)
        self.pyramid.eval()
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalised images [b, 3, S, S] -> tokens [b, S / 8, S / 8, width]."""
        p2, p3, p4, p5, _ = self.pyramid(x)
        levels = [functional.pixel_unshuffle(p2, 2), p3, *(functional.interpolate(p, size=p3.shape[2:]) for p in (p4, p5))]
        return self.join(torch.cat(levels, 1)).permute(0, 2, 3, 1)


def _build_demo_sam() -> Sam:
    """About 1.4 M parameters. 32 x 32 image tokens and low-resolution masks of 128 x 128, for 256 x 256 pixels."""
    grid = DEMO_IMAGE_SIZE // DEMO_PATCH_SIZE
    encoder = ImageEncoderViT(
        img_size=DEMO_IMAGE_SIZE,
        patch_size=DEMO_PATCH_SIZE,
        embed_dim=DEMO_ENCODER_WIDTH,
        depth=2,
        num_heads=3,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        window_size=8,
        global_attn_indexes=(1,),
        out_chans=DEMO_DECODER_WIDTH,
    )
    encoder.patch_embed = PyramidPatchEmbed(DEMO_ENCODER_WIDTH)
    prompts = PromptEncoder(
        embed_dim=DEMO_DECODER_WIDTH,
        image_embedding_size=(grid, grid),
        input_image_size=(DEMO_IMAGE_SIZE, DEMO_IMAGE_SIZE),
        mask_in_chans=8,
    )
    decoder = MaskDecoder(
        transformer_dim=DEMO_DECODER_WIDTH,
        transformer=TwoWayTransformer(depth=2, embedding_dim=DEMO_DECODER_WIDTH, num_heads=4, mlp_dim=256),
        iou_head_depth=3,
        iou_head_hidden_dim=64,
    )
    return Sam(encoder, prompts, decoder).eval()


class AutomaticSam:
    """Masks of everything in an image: SAM prompted with a square grid of points.

    The masks are those of segment_anything's SamAutomaticMaskGenerator with one image crop.
    """

    def __init__(self, model: Sam, config: SamConfig) -> None:
        """model: in eval mode, on the device to run on. config: its architecture, weights and precision are not looked at."""
        self.model = model
        self._bgr = config.channel_order == "bgr"
        self._masks = AutomaticMasks(model, config)

    @classmethod
    def from_config(cls, config: SamConfig, device: torch.device | str) -> AutomaticSam:
        """Builds the model and loads its weights. Raises UserError when they are missing or another model's."""
        model = _in_precision(ready_model(build_sam, config, "sam"), config)
        return cls(model.to(device), config)

    @staticmethod
    def weight_bytes(config: SamConfig, device: torch.device) -> int:
        """Bytes of the weights that `from_config` puts on `device`; nothing is read or allocated."""
        return weight_bytes(lambda: _in_precision(build_sam(config.architecture), config))

    def generate(self, image: np.ndarray) -> SamMasks:
        """Masks of a uint8 RGB image [H, W, 3]; none when it is so thin that nothing is left at SAM's input size."""
        return self._masks.generate(np.ascontiguousarray(image[..., ::-1]) if self._bgr else image)


def _in_precision(model: Sam, config: SamConfig) -> Sam:
    in_precision(model.image_encoder, config.precision)
    return model
