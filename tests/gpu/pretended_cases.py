"""Mistakes, and waits of the host, planted for the pretended GPU to find. Prints as JSON what came of each.

python -m tests.pretended_gpu tests/gpu/pretended_cases.py             with settings GPUS=2, GPU_MIB=64
python -m tests.pretended_gpu tests/gpu/pretended_cases.py broken      with setting BREAK_AT=20
"""

from __future__ import annotations

import json
import linecache
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from torchvision.ops import nms

from tests.pretended_gpu import waits

FIRST, SECOND = torch.device("cuda:0"), torch.device("cuda:1")
ROWS = torch.ones(4, 8)
INDEX = torch.tensor([0, 2])
IMAGE = torch.ones(1, 3, 8, 8)
TOKENS = torch.ones(2, 4, 8, 16)
LINEAR = torch.linspace(-1, 1, 2 * 4 * 8 * 16).view(2, 4, 8, 16)


def errors() -> dict[str, Callable[[], object]]:
    """What a real GPU refuses, by name."""
    rows, index, image, tokens = ROWS.to(FIRST), INDEX.to(FIRST), IMAGE.to(FIRST), TOKENS.to(FIRST)
    convolution, embedding, rectangles = nn.Conv2d(3, 4, 3), nn.Embedding(4, 8), torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    return {
        "sum with a CPU tensor": lambda: rows + ROWS,
        "sum into a CPU tensor": lambda: torch.add(rows, rows, out=ROWS.clone()),
        "product with a CPU tensor": lambda: rows @ ROWS.T,
        "cat with a CPU tensor": lambda: torch.cat([rows, ROWS]),
        "fused update with a CPU tensor": lambda: torch._foreach_add([rows, rows], [ROWS, ROWS]),
        "index_select by a CPU index": lambda: rows.index_select(0, INDEX),
        "gather by a CPU index": lambda: rows.gather(1, torch.zeros(4, 1, dtype=torch.long)),
        "index of another GPU": lambda: rows[INDEX.to(SECOND)],
        "CPU tensor by an index of the GPU": lambda: ROWS[index],
        "index_put of CPU values": lambda: rows.index_put((index,), ROWS[:2]),
        "index_put by an index of another GPU": lambda: rows.index_put((INDEX.to(SECOND),), rows[:2]),
        "mask on the CPU": lambda: rows.masked_fill(ROWS > 0, 0.0),
        "CPU generator": lambda: torch.rand(3, device=FIRST, generator=torch.Generator()),
        "CPU generator of a permutation": lambda: torch.randperm(3, device=FIRST, generator=torch.Generator()),
        "generator of its own": lambda: torch.rand(3, device=FIRST, generator=torch.Generator(FIRST)),
        "convolution with CPU weights": lambda: convolution(image),
        "convolution of a CPU image": lambda: nn.Conv2d(3, 4, 3, device=FIRST)(IMAGE),
        "transposed convolution with CPU weights": lambda: nn.ConvTranspose2d(3, 4, 2)(image),
        "batch norm with CPU weights": lambda: nn.BatchNorm2d(3)(image),
        "linear layer with CPU weights": lambda: nn.Linear(8, 8)(rows),
        "embedding with CPU weights": lambda: embedding(index),
        "embedding of CPU tokens": lambda: nn.Embedding(4, 8, device=FIRST)(INDEX),
        "layer norm with CPU weights": lambda: nn.LayerNorm(8)(rows),
        "layer norm of another GPU": lambda: nn.LayerNorm(8, device=SECOND)(rows),
        "attention to CPU keys": lambda: scaled_dot_product_attention(tokens, TOKENS, tokens),
        "attention with a CPU bias": lambda: scaled_dot_product_attention(tokens, tokens, tokens, torch.zeros(8, 8)),
        "attention in bf16 to CPU keys": lambda: scaled_dot_product_attention(
            *[each.bfloat16() for each in (tokens, tokens, TOKENS)]
        ),
        "loss against CPU targets": lambda: nn.functional.cross_entropy(rows, torch.zeros(4, dtype=torch.long)),
        "NMS with CPU scores": lambda: nms(rectangles.to(FIRST), torch.ones(1), 0.5),
        "two GPUs": lambda: rows + ROWS.to(SECOND),
        "NumPy array of device memory": lambda: rows.numpy(),
        "pinning device memory": lambda: rows.pin_memory(),
        "more memory than there is": lambda: torch.empty(65 * 2**20, dtype=torch.uint8, device=FIRST),
        "a GPU that is not there": lambda: ROWS.to("cuda:2"),
    }


def values() -> dict[str, Callable[[], torch.Tensor]]:
    """What a real GPU does take, with a number that it gives."""
    rows, index = ROWS.to(FIRST), INDEX.to(FIRST)
    tokens = LINEAR.to(FIRST)
    pinned = ROWS.pin_memory()
    return {
        "sum with a number on the CPU": lambda: (rows + torch.tensor(2.0)).sum(),
        "where with a number on the CPU": lambda: torch.where(rows > 2, rows, torch.tensor(5.0)).sum(),
        "filled with a number on the CPU": lambda: rows.masked_fill(rows > 0, torch.tensor(3.0)).sum(),
        "CPU index": lambda: rows[INDEX].sum(),
        "put by a CPU index": lambda: rows.index_put((INDEX,), torch.tensor(2.0)).sum(),
        "between GPUs": lambda: ROWS.to(FIRST).to(SECOND).cpu().sum(),
        "pinned": lambda: torch.tensor(float(pinned.is_pinned() and not ROWS.is_pinned())),
        "result of another size": lambda: torch.mul(rows, 2, out=torch.empty(0, device=FIRST)).sum(),
        "view": lambda: rows[1:, ::2].fill_(2).sum() + rows.sum(),
        "causal attention": lambda: scaled_dot_product_attention(tokens, tokens, tokens, is_causal=True).sum(),
        "memory that was given back": lambda: sum(torch.ones(2**23, device=FIRST)[0] for _ in range(4)),
        "draw": lambda: torch.rand(3, device=FIRST, generator=torch.cuda.default_generators[0]).sum(),
        "index_select": lambda: rows.index_select(0, index).sum(),
    }


def waiting() -> dict[str, Callable[[], object]]:
    """What makes the host wait, and what does not. One line each: it must be the line that is named."""
    rows, index, mask = ROWS.to(FIRST), INDEX.to(FIRST), ROWS.to(FIRST) > 0
    pinned, repeats, event = ROWS.pin_memory(), torch.tensor([1, 2], device=FIRST), torch.cuda.Event()
    event.record()
    return {
        "item": lambda: rows.sum().item(),
        "truth": lambda: bool(mask.any()),
        "tolist": lambda: rows.tolist(),
        "nonzero": lambda: rows.nonzero(),
        "unique": lambda: index.unique(),
        "bool index": lambda: rows[mask],
        "bool index, assigned rows": lambda: rows.__setitem__(mask, rows[0, 0].expand(32)),
        "cpu": lambda: rows.cpu(),
        "from pageable memory": lambda: ROWS.to(FIRST),
        "from pageable memory, non-blocking": lambda: ROWS.to(FIRST, non_blocking=True),
        "from pinned memory, blocking": lambda: pinned.to(FIRST),
        "list to the device": lambda: torch.tensor([1.0, 2.0], device=FIRST),
        "CPU index": lambda: rows[INDEX],
        "repeats without their sum": lambda: index.repeat_interleave(repeats),
        "synchronize": lambda: torch.cuda.synchronize(),
        "event": lambda: event.synchronize(),
        "NMS": lambda: nms(rows[:, :4], rows[:, 0], 0.5),
        "free: from pinned memory, non-blocking": lambda: pinned.to(FIRST, non_blocking=True),
        "free: into pinned memory, non-blocking": lambda: rows.to("cpu", non_blocking=True),
        "free: nothing to the device": lambda: ROWS[:0].to(FIRST),
        "free: number by a bool index": lambda: rows.__setitem__(mask, 1.0),
        "free: index": lambda: rows[index],
        "free: sum": lambda: rows.sum(),
        "free: repeats and their sum": lambda: index.repeat_interleave(repeats, output_size=3),
        "free: between GPUs": lambda: rows.to(SECOND),
    }


def error_of(action: Callable[[], object]) -> list[str]:
    """The type and the text of the exception, empty when there was none."""
    try:
        action()
    except Exception as error:
        return [type(error).__name__, str(error)]
    return []


def value_of(action: Callable[[], torch.Tensor]) -> float:
    """The number that comes out, after the same seed each time."""
    torch.manual_seed(7)
    return float(action())


def waits_of(action: Callable[[], object]) -> list[list]:
    """[kind, source line that is blamed, number] of each wait."""
    before = waits.COUNTS.copy()
    action()
    found = waits.COUNTS - before
    return [[wait.kind, _source(wait.line), number] for wait, number in found.items()]


def _source(line: str) -> str:
    name, _, number = line.partition(":")
    return linecache.getline(name, int(number)).strip() if name == f"tests/gpu/{Path(__file__).name}" else line


def broken() -> dict[str, list[str]]:
    """What still works on a device that breaks at operator 20."""
    rows = ROWS.to(FIRST)
    done = 0
    while not (first := error_of(lambda: rows.add_(1))) and done < 100:
        done += 1
    return {
        "operators before": [str(done)],
        "first": first,
        "later": error_of(lambda: rows + 1),
        "to the host": error_of(lambda: rows.cpu()),
        "memory": error_of(lambda: torch.empty(2**26, device=FIRST)),
        "synchronize": error_of(torch.cuda.synchronize),
        "on the CPU": error_of(lambda: ROWS + 1),
    }


def main() -> None:
    if sys.argv[1:] == ["broken"]:
        print(json.dumps(broken()))
        return
    torchvision.extension._assert_has_ops()
    result = {
        "errors": {name: error_of(action) for name, action in errors().items()},
        "values": {name: value_of(action) for name, action in values().items()},
        "waits": {name: waits_of(action) for name, action in waiting().items()},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
