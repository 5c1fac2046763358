"""The CLIP-based RIS model: CRIS's neck, decoder and projector on open_clip's towers, ETRIS's frozen towers as an option."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from pseudo_ris.captions.crops import CLIP_MEAN, CLIP_STD
from pseudo_ris.config import EMBEDDED_NAME, ClipConfig
from pseudo_ris.errors import UserError
from pseudo_ris.models.clip.scorer import build_clip
from pseudo_ris.ris.config import ModelConfig
from pseudo_ris.ris.models.base import ImageFeatures, RisModel, SampleForm, is_matrix, parameter_groups, rows_of
from pseudo_ris.ris.models.cris.decoder import Decoder, Projector
from pseudo_ris.ris.models.cris.encoders import ClipTowers, bridges_of
from pseudo_ris.ris.models.cris.neck import Neck
from pseudo_ris.ris.models.cris.tokenizer import ClipTokenizer
from pseudo_ris.ris.models.parts import part_of


@dataclass(frozen=True)
class Size:
    """Widths of what is not CLIP's. neck: see Neck. inner: of the decoder's feed-forward. pixels: see Projector.

    still: parts of the image tower that do not learn.
    """

    neck: tuple[int, int, int]
    layers: int
    heads: int
    inner: int
    pixels: int
    bridge: int
    dropout: float
    still: tuple[str, ...] = ()


# The first layers have the largest maps: learning in them, too, takes a third more time.
FIRST_LAYERS = ("conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "layer1")
DEMO = Size(neck=(32, 64, 64), layers=2, heads=4, inner=128, pixels=16, bridge=32, dropout=0.0, still=FIRST_LAYERS)
PUBLISHED = Size(neck=(256, 512, 1024), layers=3, heads=8, inner=2048, pixels=256, bridge=64, dropout=0.1)
"""CRIS's, with ETRIS's width of the bridges."""
NECK_STRIDE, BRIDGED_STRIDE = 16, 4
"""Pixels between two places of the first image feature, without and with bridges."""


class ClipRis(RisModel):
    """See RisModel. The foreground's logit is CRIS's; the background's is 0, so that cross-entropy is CRIS's binary one.

    Args:
        towers: CLIP's. size: see Size. form, tokenizer: see RisModel.
        frozen: in the towers only bridges and the hidden word's embedding learn.
    """

    def __init__(self, towers: ClipTowers, size: Size, form: SampleForm, tokenizer: ClipTokenizer, frozen: bool) -> None:
        super().__init__()
        self.form, self.tokenizer = form, tokenizer
        self.towers = towers
        sentence, words = towers.text_projection.shape[1], towers.text.width
        self.neck = Neck(towers.map_channels, sentence, size.neck)
        self.decoder = Decoder(size.neck[1], words, size.layers, size.heads, size.inner, size.dropout)
        self.projector = Projector(size.neck[1], sentence, size.pixels)
        for part in size.still:
            towers.visual.get_submodule(part).requires_grad_(False)
        if frozen:
            for name, parameter in towers.named_parameters():
                parameter.requires_grad_(name.startswith("bridges") or name == "mask_embedding")
        # A step takes a sixth less time on a CPU.
        self.to(memory_format=torch.channels_last)

    @classmethod
    def from_config(cls, config: ModelConfig) -> ClipRis:
        """The model of a config; what no file gives is drawn from torch's current random state.

        Raises UserError when weights are missing, damaged or another model's, or the CLIP is none with a ResNet.
        """
        if not config.keep_end:
            raise UserError("model.keep_end: clip reads a sentence at its end token; only model.name maskris takes false")
        model = part_of(build_clip, ClipConfig, config.size, config.image_weights, "clip")
        size = DEMO if config.size == EMBEDDED_NAME else PUBLISHED
        tokenizer = ClipTokenizer(config.words, config.size)
        bridges = bridges_of(model, size.bridge, size.heads) if config.adapters else None
        form = SampleForm(config.input_size, "letterbox", CLIP_MEAN, CLIP_STD)
        return cls(ClipTowers(model, bridges), size, form, tokenizer, frozen=config.adapters)

    def image_features(self, images: torch.Tensor) -> ImageFeatures:
        """See RisModel: the neck's maps of the images; with bridges what comes before the first one."""
        seen = self.towers.see(images.contiguous(memory_format=torch.channels_last))
        return seen if self.towers.bridges is not None else self.neck.prepare(seen)

    def from_features(
        self, features: ImageFeatures, tokens: torch.Tensor, attention: torch.Tensor, owners: torch.Tensor | None = None
    ) -> torch.Tensor:
        """See RisModel."""
        if self.towers.bridges is not None:
            read = self.towers.read(features, tokens, attention, owners)
            prepared, stride = self.neck.prepare(read.maps), BRIDGED_STRIDE
        else:
            read = self.towers.read((), tokens, attention)
            prepared, stride = rows_of(features, owners), NECK_STRIDE
        fused = self.neck(prepared, read.sentence)
        fused = self.decoder(fused, read.words, attention)
        logits = self.projector(fused, read.sentence).float()
        size = [stride * side for side in features[0].shape[2:]]
        logits = functional.interpolate(logits, size, mode="bilinear", align_corners=False)
        return torch.cat([torch.zeros_like(logits), logits], dim=1)

    def image_blocks(self) -> list[nn.Module]:
        """See RisModel. The bottlenecks of the ResNet."""
        visual = self.towers.visual
        return [block for stage in (visual.layer1, visual.layer2, visual.layer3, visual.layer4) for block in stage]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """See RisModel. Towers are CLIP's parts; bridges and the hidden word are new."""
        new = ("towers.bridges", "towers.mask_embedding")
        return parameter_groups(self, lambda name: name.startswith("towers.") and not name.startswith(new), is_matrix)
