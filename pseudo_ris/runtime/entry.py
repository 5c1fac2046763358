"""The start of a command, before `run_recipe` takes over.

Ctrl-C during imports ends the command with one line, and threads sleep while they wait for each other.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pseudo_ris.errors import EXIT_INTERRUPTED
from pseudo_ris.io.deferred_imports import defer_compiler, leave_out_transformers
from pseudo_ris.io.gc_tuning import no_collection
from pseudo_ris.io.threads import sleep_while_waiting

INTERRUPTED = "interrupted; the same command goes on where this one stopped"


@contextmanager
def importing() -> Iterator[None]:
    """Wraps the imports of a script: pauses garbage collection and calls `begin_command`."""
    with no_collection():
        begin_command()
        try:
            yield
        finally:
            end_of_imports()


def begin_command() -> None:
    """Until `end_of_imports`, Ctrl-C ends the process at once with one line and exit code 130: no work has begun yet.

    A caller's own handling of Ctrl-C is kept. Libraries that are loaded afterwards find the settings of threads.py, and leave
    out what deferred_imports.py says.
    """
    sleep_while_waiting()
    defer_compiler()
    leave_out_transformers()
    if _in_main_thread() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end_at_once)


def end_of_imports() -> None:
    """From here on, Ctrl-C raises KeyboardInterrupt again."""
    if _in_main_thread() and signal.getsignal(signal.SIGINT) is _end_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _end_at_once(number: int, frame: FrameType | None) -> None:
    # Not an exception: libraries catch all exceptions while they look for optional modules.
    os.write(2, f"{INTERRUPTED}\n".encode())
    os._exit(EXIT_INTERRUPTED)
