"""Types of command-line arguments."""

from __future__ import annotations

import math
from argparse import ArgumentTypeError
from collections.abc import Callable

LARGEST_SEED = 2**32 - 1


def finite_number(text: str) -> float:
    """A number of a command line, for argparse. Raises ArgumentTypeError when it is infinite, NaN or no number."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ArgumentTypeError(f"must be a finite number, got {text[:40]!r}")
    return number


def whole_number(lowest: int, highest: int | None = None) -> Callable[[str], int]:
    """A whole number of a command line, for argparse, from `lowest` to `highest` inclusive; None is no limit."""

    def read(text: str) -> int:
        value = int(text)
        if value < lowest or (highest is not None and value > highest):
            limits = f"at least {lowest}" if highest is None else f"from {lowest} to {highest}"
            raise ArgumentTypeError(f"must be {limits}, got {value}")
        return value

    read.__name__ = "whole number"
    return read
