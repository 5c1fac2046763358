"""Swin as the image tower: the one place that knows timm's."""

from __future__ import annotations

import math
from typing import Any

import torch
from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock
from torch import nn
from torch.nn import functional

from pseudo_ris.ris.models.maskris.sizes import Size

TABLE = "relative_position_bias_table"


class Swin(nn.Module):
    """Images -> four normalised maps; the next stage takes the map before its normalisation.

    Windows keep their size whatever the map's size, see PaddedBlock, so the weights fit every input size. Loading a state with
    another window size rebuilds the trunk, so load before an optimiser takes the parameters.

    Args:
        window: side of an attention window, in patches.
    """

    def __init__(self, size: Size, window: int) -> None:
        super().__init__()
        self.size, self.window = size, window
        self.trunk = _trunk(size, window)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for channels in size.channels)
        self.register_load_state_dict_pre_hook(_take_window)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """images: float [B, 3, S, S], S a multiple of 32. Maps [B, C, S / stride, S / stride], strides 4, 8, 16 and 32."""
        maps, patches = [], self.trunk.patch_embed(images)
        for stage, norm in zip(self.trunk.layers, self.norms, strict=True):
            patches = stage(patches)
            maps.append(norm(patches).permute(0, 3, 1, 2))
        return maps


class PaddedBlock(SwinTransformerBlock):
    """timm's block with the order of Swin's detection models and of MaskRIS's release: pad the map, then roll it.

    The normalised map gets zeros at its right and lower edge up to whole windows. The padded map is rolled, and the mask of
    shifted windows is that of the padded size. A map of one single window is shifted and masked too. timm's own block rolls
    before it pads, which gives other features where windows do not divide the map.
    """

    def _attn(self, x: torch.Tensor) -> torch.Tensor:
        """x: normalised map, float [B, H, W, C]. Returns what its windows attend to, of the same shape."""
        height, width = x.shape[1:3]
        below, right = -height % self.window_size[0], -width % self.window_size[1]
        return super()._attn(functional.pad(x, (0, 0, 0, right, 0, below)))[:, :height, :width]


def window_of(table: torch.Tensor) -> int | None:
    """Side of the windows of a relative position table [offsets, heads], (2 side - 1) ** 2 offsets. None when it is no such."""
    rows = len(table) if table.ndim == 2 else 0
    offsets = math.isqrt(rows)
    return (offsets + 1) // 2 if offsets % 2 == 1 and offsets**2 == rows else None


def _trunk(size: Size, window: int) -> SwinTransformer:
    """timm's model, up to its last stage."""
    trunk = SwinTransformer(
        embed_dim=size.swin_width,
        depths=size.swin_depths,
        num_heads=size.swin_heads,
        window_size=window,
        always_partition=True,
        strict_img_size=False,
        drop_path_rate=size.drop_path,
    )
    trunk.prune_intermediate_layers(len(size.swin_depths), prune_norm=True)
    for stage in trunk.layers:
        for block in stage.blocks:
            block.__class__ = PaddedBlock  # timm has no argument for the class of its blocks
    return trunk


def _take_window(swin: Swin, state: dict[str, torch.Tensor], prefix: str, *_: Any) -> None:
    """Before a state is loaded: rebuilds the trunk when the state's windows have another size."""
    windows = {window_of(value) for name, value in state.items() if name.startswith(prefix) and name.endswith(TABLE)}
    window = windows.pop() if len(windows) == 1 else None
    if window not in (None, swin.window):
        swin.window = window
        swin.trunk = _trunk(swin.size, window).to(swin.norms[0].weight.device).train(swin.training)
