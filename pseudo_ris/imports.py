"""Importing large libraries without the garbage collector in between."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Has no garbage looked for while modules are imported, and what they have made not looked through afterwards.

    An import makes next to no garbage, but half a million objects: looking through them takes a sixth of the time to import all
    that a stage needs, and .3 s each time later on.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
