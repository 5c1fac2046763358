"""Sine positions, as DETR and CRIS add them to what attention sees."""

from __future__ import annotations

from functools import lru_cache

import torch

TEMPERATURE = 10_000.0


@lru_cache(maxsize=16)
def sine_positions(width: int, height: int, breadth: int, device: torch.device) -> torch.Tensor:
    """Places of a map of `height` x `breadth`, float32 [height * breadth, width]: half of it for the row, half for the column.

    Source: Vaswani et al. 2017, sec. 3.5, once for each axis. width: a multiple of 4.
    """
    quarter = width // 4
    rates = TEMPERATURE ** (-torch.arange(quarter, dtype=torch.float32, device=device) / quarter)
    rows = torch.arange(height, dtype=torch.float32, device=device)[:, None] * rates
    columns = torch.arange(breadth, dtype=torch.float32, device=device)[:, None] * rates
    rows, columns = (torch.cat([angles.sin(), angles.cos()], dim=1) for angles in (rows, columns))
    return torch.cat([rows.repeat_interleave(breadth, 0), columns.repeat(height, 1)], dim=1)
