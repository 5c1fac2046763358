"""Running a function as a command: one-line errors, exit codes, and what Ctrl-C, SIGTERM and a closed pipe do."""

from __future__ import annotations

import _thread
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from io import TextIOWrapper
from types import FrameType

from pseudo_ris.errors import EXIT_INTERRUPTED, EXIT_NO_READER, EXIT_TERMINATED, UserError
from pseudo_ris.io.gc_tuning import set_aside
from pseudo_ris.io.terminal import print_error
from pseudo_ris.runtime.entry import INTERRUPTED, end_of_imports

EXIT_USER_ERROR = 2
TERMINATION_SECONDS = 8.0
STANDARD_STREAMS = (1, 2)
"""File descriptors of standard output and standard error."""


class TerminatedError(BaseException):
    """Raised in the main thread when the process was told to end. Not an Exception, so that no other code handles it."""


def run_recipe(main: Callable[[Sequence[str]], int]) -> None:
    """Runs a recipe's `main(argv)` as a command: user errors become one line and exit code 2.

    SIGTERM ends it like Ctrl-C, and by force after 8 s; results on disk stay valid. When its output pipe is closed (`| head`),
    it ends silently with exit code 141.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a folder's name need not be UTF-8; sys.stderr escapes by default
    signal.signal(signal.SIGTERM, _terminate)
    end_of_imports()
    set_aside()
    try:
        code = _exit_code(main)
        sys.stdout.flush()
    except BrokenPipeError:
        if not any(map(_has_lost_its_reader, STANDARD_STREAMS)):
            raise
        code = EXIT_NO_READER
        _discard_output()
    sys.exit(code)


def _exit_code(main: Callable[[Sequence[str]], int]) -> int | str | None:
    """The result of `main`, or the exit code for the exception that ended it, after printing its message."""
    try:
        return main(sys.argv[1:])
    except SystemExit as ending:  # argparse's, after --help or a wrong option
        return ending.code
    except UserError as error:
        print_error(str(error))
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        return EXIT_INTERRUPTED
    except TerminatedError:
        print("terminated; the same command goes on where this one stopped", file=sys.stderr)
        sys.stdout.flush()
        os._exit(EXIT_TERMINATED)  # nothing is left to clean up, and unloading the libraries takes long


def _has_lost_its_reader(descriptor: int) -> bool:
    """True if a standard stream is a pipe whose other end is closed."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _discard_output() -> None:
    """Redirects the standard streams to /dev/null, so that Python's final flush does not fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in STANDARD_STREAMS:
        os.dup2(nowhere, descriptor)


def _terminate(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, lambda number, frame: None)  # a second signal must not interrupt the clean-up
    # Not threading.Thread: the interrupted main thread may hold its locks.
    _thread.start_new_thread(_end_anyway, ())
    raise TerminatedError


def _end_anyway() -> None:
    time.sleep(TERMINATION_SECONDS)
    os._exit(EXIT_TERMINATED)
