"""The kinds of error a user can cause, their remedies, and the exit codes of a process that was told to end."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable

EXIT_TERMINATED = 128 + signal.SIGTERM
EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_NO_READER = 128 + signal.SIGPIPE


class UserError(Exception):
    """The run cannot start or continue with these settings: shown as one line, exit code 2."""


class DeviceError(UserError):
    """This process cannot use its GPU, or no longer; another process or another GPU may do better."""


class BadInputError(Exception):
    """One image cannot be processed: recorded in failures.csv, the run continues."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The most similar of `known` names, for the message about an unknown one."""
    return difflib.get_close_matches(name, list(known), n=1, cutoff=0.0)[0]


def require(condition: bool, message: str) -> None:
    """Raises UserError with the message unless the condition holds."""
    if not condition:
        raise UserError(message)


def require_share(**values: float) -> None:
    for name, value in values.items():
        require(0 <= value <= 1, f"{name}: must be from 0 to 1, got {value}")


def require_not_negative(**values: float) -> None:
    for name, value in values.items():
        require(value >= 0, f"{name}: must be 0 or more, got {value}")


def require_positive(**values: float) -> None:
    for name, value in values.items():
        require(value > 0, f"{name}: must be greater than 0, got {value}")
