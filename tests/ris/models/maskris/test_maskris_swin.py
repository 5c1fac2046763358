"""Swin's windows on maps that they do not divide, against one window after the other."""

from __future__ import annotations

import pytest
import torch
from maskris_micro import MICRO
from timm.models.swin_transformer import SwinTransformerBlock

from pseudo_ris.ris.models.maskris.swin import PaddedBlock, Swin


def shifted_block(window: int) -> PaddedBlock:
    """One whose position table says something."""
    torch.manual_seed(0)
    block = Swin(MICRO, window).trunk.layers[2].blocks[1].eval()
    torch.nn.init.normal_(block.attn.relative_position_bias_table)
    torch.nn.init.normal_(block.attn.qkv.bias)
    return block


def band(place: int, length: int, window: int) -> int:
    """Which of the three bands along a side of this length a place is in; windows do not look from one into another."""
    return (place >= length - window) + (place >= length - window // 2)


def attended(block: PaddedBlock, normed: torch.Tensor) -> torch.Tensor:
    """Liu et al., ICCV 2021, sec. 3.2, one window after the other. normed: [H, W, C]."""
    window, shift = block.window_size[0], block.window_size[0] // 2
    height, width, channels = normed.shape
    high, wide = (-(-side // window) * window for side in (height, width))
    padded = torch.zeros(high, wide, channels)
    padded[:height, :width] = normed
    query, key, value = block.attn.qkv(padded).unflatten(2, (3, block.attn.num_heads, -1)).unbind(2)
    table = block.attn.relative_position_bias_table
    result = torch.zeros(high, wide, channels)
    for top in range(0, high, window):
        for left in range(0, wide, window):
            # Of a place in the rolled map: where it came from, and its bands.
            cells = [(row, column) for row in range(top, top + window) for column in range(left, left + window)]
            rows, columns = [(row + shift) % high for row, _ in cells], [(column + shift) % wide for _, column in cells]
            bands = [(band(row, high, window), band(column, wide, window)) for row, column in cells]
            offsets = torch.tensor(
                [[(r - s + window - 1) * (2 * window - 1) + c - d + window - 1 for s, d in cells] for r, c in cells]
            )
            apart = torch.tensor([[-100.0 if own != other else 0.0 for other in bands] for own in bands])
            queries, keys, values = (each[rows, columns].transpose(0, 1) for each in (query, key, value))
            scores = queries @ keys.transpose(1, 2) * block.attn.scale + table[offsets].permute(2, 0, 1) + apart
            result[rows, columns] = block.attn.proj((scores.softmax(2) @ values).transpose(0, 1).flatten(1))
    return result[:height, :width]


@pytest.mark.parametrize(("window", "height", "width"), [(4, 6, 9), (4, 8, 4), (4, 4, 4), (3, 5, 2)])
def test_maps_are_padded_before_they_are_rolled(window, height, width):
    block = shifted_block(window)
    patches = torch.randn(2, height, width, block.dim)
    with torch.no_grad():
        joined = torch.stack([attended(block, each) for each in block.norm1(patches)])
        expected = patches + joined
        expected = expected + block.mlp(block.norm2(expected))
        torch.testing.assert_close(block(patches), expected, atol=1e-5, rtol=1e-5)
        theirs = SwinTransformerBlock.forward(reclassed(block), patches)
    whole = height % window == 0 and width % window == 0
    assert torch.allclose(theirs, expected, atol=1e-4) == whole, "timm's own order differs where padding is needed"


def reclassed(block: PaddedBlock) -> SwinTransformerBlock:
    block.__class__ = SwinTransformerBlock
    return block


def test_every_block_is_padded_also_after_windows_of_another_size_are_loaded():
    tower = Swin(MICRO, window=4)
    tower.load_state_dict(Swin(MICRO, window=6).state_dict())
    blocks = [block for stage in tower.trunk.layers for block in stage.blocks]
    assert {type(block) for block in blocks} == {PaddedBlock}
