"""Swin as the image tower: the one place that knows timm's."""

from __future__ import annotations

import math
from typing import Any

import torch
from timm.models.swin_transformer import SwinTransformer
from torch import nn

from pseudo_ris.ris.maskris.sizes import Size

TABLE = "relative_position_bias_table"


class Swin(nn.Module):
    """Images -> four maps, each normalised on its way out; the next stage goes on from what is not normalised.

    Windows keep their size on small maps, which are padded with zeros up to whole windows, as in Swin's detection models: so
    the weights fit whatever the input size is. Loading a state whose windows are of another size changes them, so load before
    an optimiser takes the parameters.

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
    return trunk


def _take_window(swin: Swin, state: dict[str, torch.Tensor], prefix: str, *_: Any) -> None:
    """Before a state is loaded: makes the trunk anew when the state's windows are of another size."""
    windows = {window_of(value) for name, value in state.items() if name.startswith(prefix) and name.endswith(TABLE)}
    window = windows.pop() if len(windows) == 1 else None
    if window not in (None, swin.window):
        swin.window = window
        swin.trunk = _trunk(swin.size, window).to(swin.norms[0].weight.device).train(swin.training)
