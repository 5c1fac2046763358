"""When Python looks for garbage: not while very much is made that stays."""

from __future__ import annotations

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_collection() -> Iterator[None]:
    """Has no garbage looked for while it is entered.

    Where next to none is made, as by importing large libraries or listing a million images, looking through all that is there
    again and again is a quarter to a half of the time.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def set_aside() -> None:
    """Has what is there now not looked through for garbage until the process ends; of the imports that takes .3 s each time."""
    gc.freeze()
    atexit.register(gc.unfreeze)  # or libraries that take stock at the end, as Triton's nanobind does, miss what they made
