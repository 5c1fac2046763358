"""The parser of all subcommands, and types of their arguments."""

from __future__ import annotations

import argparse
import math
import shutil
import sys
from argparse import ArgumentTypeError
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pseudo_ris.errors import nearest
from pseudo_ris.runtime.command import EXIT_USER_ERROR

LARGEST_SEED = 2**32 - 1
WIDEST = 120
"""Columns of a help page on a wide terminal."""


class CommandParser(argparse.ArgumentParser):
    """A parser whose errors are one line, with the nearest valid option for an unknown one, and exit code 2.

    Args:
        command: words after `pseudo-ris`, for example "lab evaluate".
        description: shown as it is written.
        settings: of argparse.ArgumentParser.
    """

    def __init__(self, command: str = "", description: str = "", **settings: Any) -> None:
        settings.setdefault("formatter_class", _Formatter)
        settings.setdefault("prog", program_of(command))
        super().__init__(description=description.strip(), **settings)

    def parse_args(self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None) -> argparse.Namespace:
        known, words = self._options(), sys.argv[1:] if args is None else args
        for name in [word.partition("=")[0] for word in words if word.startswith("--") and known]:
            if not any(option.startswith(name) for option in known):
                self.error(f"{name}: no such option; did you mean {nearest(name, known)}? (--help lists all)")
        return super().parse_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USER_ERROR, f"error: {message}\n")

    def _options(self) -> list[str]:
        """Long options of this parser and its subcommands; none where the rest of the words goes to another program."""
        if any(action.nargs == argparse.REMAINDER for action in self._actions):
            return []
        subcommands = [action.choices for action in self._actions if isinstance(action, argparse._SubParsersAction)]
        own = [option for action in self._actions for option in action.option_strings if option.startswith("--")]
        return own + [option for parsers in subcommands for parser in parsers.values() for option in parser._options()]


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """The description as it is written; defaults beside the options that have one."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=min(WIDEST, shutil.get_terminal_size((WIDEST, 40)).columns))

    def _get_help_string(self, action: argparse.Action) -> str | None:
        bare = action.default in (None, "", False, ()) or not action.option_strings
        return action.help if bare else super()._get_help_string(action)


def program_of(command: str) -> str:
    """What the user has typed to start `command`: `pseudo-ris COMMAND`, or a script of the design."""
    started = Path(sys.argv[0])
    script = started.suffix == ".py" and not started.name.startswith("__")
    return f"python {started}" if script else f"pseudo-ris {command}"


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
