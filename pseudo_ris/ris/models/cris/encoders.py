"""CLIP's two towers, open for what CRIS and ETRIS take from them: the one place that knows open_clip's insides here."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from open_clip.model import CLIP
from open_clip.modified_resnet import AttentionPool2d, ModifiedResNet
from torch import nn
from torch.nn import functional

from pseudo_ris.errors import UserError
from pseudo_ris.ris.models.base import ImageFeatures, rows_of
from pseudo_ris.ris.models.cris.bridges import Bridge

STAGES = 3
"""Stages of the image tower whose maps are taken: those of strides 8, 16 and 32."""


@dataclass(frozen=True)
class ClipFeatures:
    """What the towers say of B images and sentences.

    maps: float [B, C, S/8, S/8], [B, 2C, S/16, S/16], and [B, D, S/32, S/32] in CLIP's joint space. words: float [B, L, W].
    sentence: float [B, D], in CLIP's joint space, of unit length: its length says nothing, and what is computed from it would
    follow it.
    """

    maps: ImageFeatures
    words: torch.Tensor
    sentence: torch.Tensor


class ClipTowers(nn.Module):
    """CLIP with a ResNet and one token more, which stands for a hidden word.

    BatchNorm keeps its published statistics, so that a sample's result does not depend on its batch.

    Args:
        model: as open_clip builds it.
        bridges: where images and sentences meet on their way (ETRIS), or none.

    Raises UserError when the image tower is no ResNet.
    """

    def __init__(self, model: CLIP, bridges: nn.ModuleList | None = None) -> None:
        super().__init__()
        if not isinstance(model.visual, ModifiedResNet):
            raise UserError("model.size: this CLIP's image tower is no ResNet; give RN50, RN101, RN50x4 or another RN")
        self.visual = model.visual
        for unused in ("positional_embedding", "q_proj.weight", "q_proj.bias", "k_proj.weight", "k_proj.bias"):
            self.visual.attnpool.get_parameter(unused).requires_grad_(False)  # see spread
        self.text = model.transformer
        self.token_embedding = model.token_embedding
        self.positional_embedding = model.positional_embedding
        self.ln_final = model.ln_final
        self.text_projection = model.text_projection
        # A hidden word looks like the mean of all words at first.
        self.mask_embedding = nn.Parameter(model.token_embedding.weight.detach().mean(0))
        self.bridges = bridges

    def train(self, mode: bool = True) -> ClipTowers:
        """As nn.Module's, but for BatchNorm."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    @property
    def map_channels(self) -> tuple[int, int, int]:
        """Channels of ClipFeatures.maps."""
        blocks = (self.visual.layer2[-1], self.visual.layer3[-1])
        return (*(block.bn3.num_features for block in blocks), self.visual.output_dim)

    def see(self, images: torch.Tensor) -> ImageFeatures:
        """The image tower as far as it reads no sentence: the three maps of ClipFeatures, or with bridges the map of stride 4.

        images: float [M, 3, S, S].
        """
        current = self.visual.layer1(self.visual.stem(images))
        if self.bridges is not None:
            return (current,)
        fine = self.visual.layer2(current)
        middle = self.visual.layer3(fine)
        return fine, middle, spread(self.visual.attnpool, self.visual.layer4(middle))

    def read(
        self, features: ImageFeatures, tokens: torch.Tensor, attention: torch.Tensor, owners: torch.Tensor | None = None
    ) -> ClipFeatures:
        """The sentence tower, with bridges together with the rest of the image tower; see RisModel.from_features.

        features: see `see`. Without bridges its maps are handed on as they are. tokens: the mask token is the last id.
        """
        words = self._embed(tokens)
        # open_clip's blocks add the mask, even a boolean one.
        causal = words.new_full((tokens.shape[1], tokens.shape[1]), -torch.inf).triu(1)
        maps = () if self.bridges is not None else features
        current = features if self.bridges is None else rows_of(features, owners)
        for stage, blocks in enumerate(self._text_stages()):
            for block in blocks:
                words = block(words, attn_mask=causal)
            if self.bridges is not None:
                seen = (self.visual.layer2, self.visual.layer3, self.visual.layer4)[stage](current[-1])
                seen, words = self.bridges[stage](seen, words, attention)
                current = (*current, seen)
        if self.bridges is not None:
            maps = (current[1], current[2], spread(self.visual.attnpool, current[3]))
        words = self.ln_final(words)
        ends = attention.sum(1) - 1
        sentence = words[torch.arange(len(words), device=words.device), ends] @ self.text_projection
        return ClipFeatures(maps, words, functional.normalize(sentence, dim=1))

    def _embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens int64 [B, L] -> float [B, L, W] with places."""
        hidden = tokens == self.token_embedding.num_embeddings
        embedded = self.token_embedding(tokens.masked_fill(hidden, 0))
        embedded = torch.where(hidden[..., None], self.mask_embedding.to(embedded.dtype), embedded)
        return embedded + self.positional_embedding[: tokens.shape[1]]

    def _text_stages(self) -> list[list[nn.Module]]:
        """The sentence tower's blocks, in as many runs as the image tower has stages; the last runs are the longer ones."""
        blocks = list(self.text.resblocks)
        cuts = [len(blocks) * stage // STAGES for stage in range(STAGES + 1)]
        return [blocks[start:stop] for start, stop in pairwise(cuts)]


def bridges_of(model: CLIP, width: int, heads: int) -> nn.ModuleList:
    """One bridge after each of the stages. Raises UserError when the image tower is no ResNet."""
    towers = ClipTowers(model)
    layers = (towers.visual.layer2, towers.visual.layer3, towers.visual.layer4)
    return nn.ModuleList(Bridge(layer[-1].bn3.num_features, towers.text.width, width, heads) for layer in layers)


def spread(pool: AttentionPool2d, features: torch.Tensor) -> torch.Tensor:
    """CLIP's attention pool without its attention: what each place alone would give. [B, C, H, W] -> [B, D, H, W].

    CRIS lets each place ask all others. What a place then says is no longer where the sentence's object is: with the embedded
    CLIP, of 71 sentences about drawn scenes at 384 pixels the best fitting object was right in .20 of the cases (chance
    is .19), and in .52 without the attention (as in MaskCLIP, Zhou et al., ECCV 2022).
    """
    flat = features.flatten(2).transpose(1, 2)
    return pool.c_proj(pool.v_proj(flat)).transpose(1, 2).unflatten(2, features.shape[2:])
