"""Importing large libraries, and what they have made, without the garbage collector."""

from __future__ import annotations

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Has no garbage looked for while modules are imported, nor in what they have made afterwards.

    An import makes next to no garbage, but half a million objects: looking through them is a sixth of the time it takes to
    import all that a stage needs.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
            set_imports_aside()


def set_imports_aside() -> None:
    """Has what was imported so far not looked through for garbage, which takes .3 s each time, until the process ends."""
    gc.freeze()
    atexit.register(gc.unfreeze)  # or libraries that take stock at the end, as Triton's nanobind does, miss what they made
