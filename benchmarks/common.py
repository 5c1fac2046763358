"""What the benchmarks share: fresh processes, peak memory, tables, the JSON line."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from pseudo_ris.io.device import peak_host_bytes

Result = TypeVar("Result")


def in_fresh_process(work: Callable[..., Result], *arguments: Any, threads: int) -> Result:
    """`work(*arguments)` in a new interpreter with `threads` CPU threads, so that nothing is warm and peak memory is its own.

    work: a function of a module's top level; what it takes and returns is pickled. Its exceptions are raised here.
    """
    with multiprocessing.get_context("spawn").Pool(1, torch.set_num_threads, (threads,)) as pool:
        return pool.apply(work, arguments)


def peak_bytes() -> int:
    """The most memory this process has had so far, with a GPU the most of the GPU's."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return peak_host_bytes()


def print_table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A Markdown table; floats with three significant digits."""
    shown = [head, *([f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in shown) for column in range(len(head))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in shown]
    print("\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]))


def print_json(figures: dict[str, Any]) -> None:
    """The last line of a benchmark: one JSON object, floats with four significant digits."""
    rounded = {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in figures.items()}
    print(json.dumps(rounded), flush=True)
