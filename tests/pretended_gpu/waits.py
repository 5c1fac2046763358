"""Counts where the host waits for the device, by the line of the project that causes it."""

from __future__ import annotations

import collections
import ctypes
import functools
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from tests.pretended_gpu.runtime import loaded_runtime
from tests.pretended_gpu.settings import Settings

PROJECT = Path(Settings.from_environment().project).resolve()
PACKAGE = Path(__file__).parent

READING = {
    "_local_scalar_dense", "equal", "nonzero", "masked_select", "bincount", "_unique", "_unique2", "unique_dim",
    "unique_consecutive", "unique_dim_consecutive", "repeat_interleave", "nms",
}  # fmt: skip
"""Operators that read something from the device before they return: a value, or the size of their result."""


class Wait(NamedTuple):
    """A kind of wait. kind: "read" of a value, "to host", "to device", "bool index", "runtime" (synchronize and the like).

    line: "file:number" of the project's innermost line, or the name of a thread that runs none. operator: or the runtime's
    function.
    """

    kind: str
    line: str
    operator: str


COUNTS: collections.Counter[Wait] = collections.Counter()
"""How often each wait happened in this process."""


def project_line() -> str:
    """The innermost line of the project on this thread's stack, outside this package."""
    frame = sys._getframe(1)
    while frame is not None:
        file = _file_of_project(frame.f_code.co_filename)
        if file:
            return f"{file}:{frame.f_lineno}"
        frame = frame.f_back
    return f"({threading.current_thread().name})"


@functools.cache
def _file_of_project(name: str) -> str:
    """The path of a source file within the project, empty for files elsewhere. name: as in a code object."""
    path = Path(name).absolute()
    inside = path.is_relative_to(PROJECT) and not path.is_relative_to(PACKAGE) and "site-packages" not in path.parts
    return str(path.relative_to(PROJECT)) if inside else ""


def count_waits(name: str, arguments: Sequence[object], keywords: Mapping[str, object]) -> None:
    """Counts what a call of an operator makes the host wait for. name: without namespace and overload."""
    for kind in _waits_of(name, arguments, keywords):
        COUNTS[Wait(kind, project_line(), name)] += 1


def _waits_of(name: str, arguments: Sequence, keywords: Mapping[str, object]) -> Iterator[str]:
    if name in READING and keywords.get("output_size") is None:
        yield "read"
    elif name == "copy_":
        to, source = arguments[:2]
        non_blocking = arguments[2] if len(arguments) > 2 else keywords.get("non_blocking", False)
        if to.device.type != source.device.type and source.numel():
            on_host = to if to.device.type == "cpu" else source
            if not (non_blocking and on_host.is_pinned()):
                yield "to host" if to is on_host else "to device"
    elif name.removeprefix("_unsafe_").startswith(("index_put", "_index_put")) or name in ("index", "_unsafe_index"):
        one_value = len(arguments) > 2 and arguments[2].numel() == 1  # becomes masked_fill
        for index in filter(lambda index: index is not None, arguments[1]):
            if index.device.type == "cpu":
                yield "to device"
            elif index.dtype in (torch.bool, torch.uint8) and not one_value:
                yield "bool index"


def count_runtime_waits() -> None:
    """Counts, from now on, the calls of the CUDA runtime that wait: `torch.cuda.synchronize` and what torch does itself."""
    ctypes_function = ctypes.CFUNCTYPE(None, ctypes.c_char_p)(_count_runtime_wait)
    loaded_runtime().pretended_on_wait(ctypes_function)
    _callbacks.append(ctypes_function)


def stop_counting_runtime_waits() -> None:
    """Before the interpreter ends: C++ destructors may still wait, and must not call into Python then."""
    loaded_runtime().pretended_on_wait(None)


_callbacks: list[object] = []  # keeps alive what C calls


def _count_runtime_wait(function: bytes) -> None:
    COUNTS[Wait("runtime", project_line(), function.decode())] += 1
