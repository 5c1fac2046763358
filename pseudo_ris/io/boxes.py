"""Boxes of masks."""

from __future__ import annotations

import numpy as np

from pseudo_ris.records import Box


def box_of(mask: np.ndarray) -> Box:
    """The tight half-open box (x0, y0, x1, y1), in pixels, of a bool mask [H, W].

    Raises ValueError when the mask is empty.
    """
    columns = np.flatnonzero(mask.any(axis=0))
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(columns):
        raise ValueError("an empty mask has no box")
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
