"""The attentions of the pixel decoder, against slow ones."""

from __future__ import annotations

import math

import pytest
import torch

from pseudo_ris.ris.models.maskris.attention import (
    ClampedAttention,
    DeformableAttention,
    pixel_centres,
    relative_positions,
)

SHAPES = [(2, 3), (4, 6)]


def random_deformable(width=8, heads=2, levels=2, points=3) -> DeformableAttention:
    """One whose offsets and weights depend on the pixels."""
    torch.manual_seed(0)
    attention = DeformableAttention(width, heads, levels, points)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return attention


def looked_up(level: torch.Tensor, x: float, y: float) -> torch.Tensor:
    """level: [H, W, C]; x, y in pixels, centres at whole coordinates; zero outside."""
    total = torch.zeros(level.shape[2])
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < level.shape[0] and 0 <= column < level.shape[1]:
                total += (1 - abs(y - row)) * (1 - abs(x - column)) * level[row, column]
    return total


def slow_deformable(attention: DeformableAttention, pixels: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Zhu et al. 2021, eq. 3, one query, head, level and point after the other. pixels: [P, width]."""
    inner = attention.inner
    heads, levels, points, width = inner.n_heads, inner.n_levels, inner.n_points, pixels.shape[1]
    queries, values = pixels + places, inner.value_proj(pixels).unflatten(1, (heads, -1))
    offsets = inner.sampling_offsets(queries).unflatten(1, (heads, levels, points, 2))
    weights = inner.attention_weights(queries).unflatten(1, (heads, levels * points)).softmax(2)
    maps = [part.unflatten(0, shape) for part, shape in zip(values.split([h * w for h, w in SHAPES]), SHAPES, strict=True)]
    results = []
    for query, (x, y) in enumerate(pixel_centres(SHAPES, pixels.device).tolist()):
        by_head = []
        for head in range(heads):
            total = torch.zeros(width // heads)
            for level, (height, breadth) in enumerate(SHAPES):
                for point in range(points):
                    dx, dy = offsets[query, head, level, point].tolist()
                    value = looked_up(maps[level][:, :, head], x * breadth - 0.5 + dx, y * height - 0.5 + dy)
                    total += weights[query, head, level * points + point] * value
            by_head.append(total)
        results.append(torch.cat(by_head))
    return inner.output_proj(torch.stack(results))


@torch.no_grad()
def test_deformable_attention_is_that_of_a_loop():
    attention = random_deformable()
    pixels, places = torch.randn(2, 30, 8), torch.randn(30, 8)
    fast = attention(pixels, places, SHAPES)
    for each, result in zip(pixels, fast, strict=True):
        torch.testing.assert_close(result, slow_deformable(attention, each, places), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_deformable_attention_starts_with_one_direction_a_head():
    attention = DeformableAttention(8, 4, 1, 2)
    offsets = attention.inner.sampling_offsets(torch.randn(1, 8)).reshape(4, 2, 2).round(decimals=5)
    assert offsets.tolist() == [[[1, 0], [2, 0]], [[0, 1], [0, 2]], [[-1, 0], [-2, 0]], [[0, -1], [0, -2]]]


def test_deformable_attention_stays_in_fp32():
    attention, pixels, places = random_deformable(), torch.randn(1, 30, 8), torch.randn(30, 8)
    plain = attention(pixels, places, SHAPES)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = attention(pixels, places, SHAPES)
    assert mixed.dtype == torch.float32 and torch.equal(mixed, plain)


def test_clamped_attention_is_plain_attention():
    torch.manual_seed(0)
    attention = ClampedAttention(8, 32, 4)
    queries, keys, values = torch.randn(2, 3, 8), torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    kept = torch.tensor([[True] * 5, [True, True, False, True, False]])
    query, key, value = (
        layer(each).unflatten(2, (4, 8)).transpose(1, 2)
        for layer, each in ((attention.query, queries), (attention.key, keys), (attention.value, values))
    )
    plain = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=kept[:, None, None])
    expected = attention.out(plain.transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(queries, keys, values, kept), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_scores_beyond_fp16_stay_finite(dtype):
    torch.manual_seed(0)
    attention = ClampedAttention(8, 32, 4).to(dtype)
    queries, keys = (300 * torch.randn(1, 6, 8)).to(dtype), (300 * torch.randn(1, 7, 8)).to(dtype)
    with torch.no_grad():
        for layer in (attention.query, attention.key):
            layer.weight.mul_(8)
    queries.requires_grad_()
    result = attention(queries, keys, torch.randn(1, 7, 8).to(dtype), torch.tensor([[True] * 6 + [False]]))
    result.sum().backward()
    assert result.isfinite().all() and queries.grad.isfinite().all()
    if dtype == torch.float16:
        scores = attention.query(queries) * attention.scale @ attention.key(keys).transpose(1, 2)
        assert scores.isinf().any()


def test_positions_are_shares_of_the_map():
    width, (height, breadth) = 8, (2, 4)
    positions = relative_positions(width, (height, breadth), torch.device("cpu")).unflatten(0, (height, breadth))
    assert positions.shape == (height, breadth, width)
    for row in range(height):
        for column in range(breadth):
            expected = []
            for place, length in ((row, height), (column, breadth)):
                angle = 2 * math.pi * (place + 1) / length
                for pair in range(width // 4):
                    expected += [math.sin(angle / 10_000 ** (4 * pair / width)), math.cos(angle / 10_000 ** (4 * pair / width))]
            assert positions[row, column].tolist() == pytest.approx(expected, abs=1e-4)
