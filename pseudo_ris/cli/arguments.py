"""Types of command-line arguments."""

from __future__ import annotations

import math
from argparse import ArgumentTypeError


def finite_number(text: str) -> float:
    """A number of a command line, for argparse. Raises ArgumentTypeError when it is infinite, NaN or no number."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ArgumentTypeError(f"must be a finite number, got {text[:40]!r}")
    return number
