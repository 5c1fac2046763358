import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pseudo_ris.models.cutler.box_coding import cell_anchors, clip, decode, encode, grid_anchors, nonempty

WEIGHTS = (10.0, 10.0, 5.0, 5.0)


def boxes(seed, count=20):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand((count, 2), generator=generator) * 200
    return torch.cat([corner, corner + 2 + torch.rand((count, 2), generator=generator) * 100], dim=1)


@given(st.integers(0, 2**31))
def test_decode_undoes_encode(seed):
    references, targets = boxes(seed), boxes(seed + 1)
    restored = decode(references, encode(references, targets, WEIGHTS), WEIGHTS)
    torch.testing.assert_close(restored, targets, atol=2e-3, rtol=1e-4)


def test_deltas_are_shifts_in_units_of_the_box_and_log_growth():
    reference = torch.tensor([[10.0, 20.0, 30.0, 60.0]])
    deltas = torch.tensor([[1.0, -0.5, math.log(2), math.log(0.5)]])
    moved = decode(reference, deltas, (1.0, 1.0, 1.0, 1.0))
    torch.testing.assert_close(moved, torch.tensor([[20.0, 10.0, 60.0, 30.0]]))
    torch.testing.assert_close(decode(reference, deltas * torch.tensor(WEIGHTS), WEIGHTS), moved)


def test_growth_is_capped():
    huge = decode(torch.tensor([[0.0, 0.0, 16.0, 16.0]]), torch.tensor([[0.0, 0.0, 50.0, 0.0]]), (1.0, 1.0, 1.0, 1.0))
    assert huge[0, 2] - huge[0, 0] == pytest.approx(1000, rel=1e-4)


def test_anchors_have_the_area_and_the_ratios():
    cells = cell_anchors(32)
    sizes = cells[:, 2:] - cells[:, :2]
    torch.testing.assert_close(sizes.prod(dim=1), torch.full((3,), 1024.0))
    torch.testing.assert_close(sizes[:, 1] / sizes[:, 0], torch.tensor([0.5, 1.0, 2.0]))
    torch.testing.assert_close(cells[:, :2], -cells[:, 2:])


def test_anchors_go_row_by_row_with_the_cells_innermost():
    cells = cell_anchors(8)
    grid = grid_anchors(cells, 2, 3, stride=4)
    assert grid.shape == (2 * 3 * 3, 4)
    torch.testing.assert_close(grid[:3], cells)
    torch.testing.assert_close(grid[3:6], cells + torch.tensor([4.0, 0.0, 4.0, 0.0]))
    torch.testing.assert_close(grid[9:12], cells + torch.tensor([0.0, 4.0, 0.0, 4.0]))


def test_clip_and_nonempty():
    clipped = clip(torch.tensor([[-5.0, 3.0, 50.0, 40.0], [60.0, 0.0, 70.0, 10.0]]), 20, 30)
    assert clipped.tolist() == [[0.0, 3.0, 30.0, 20.0], [30.0, 0.0, 30.0, 10.0]]
    assert nonempty(clipped).tolist() == [True, False]
