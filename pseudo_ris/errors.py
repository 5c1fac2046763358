"""The two kinds of error a user can cause."""

from __future__ import annotations


class UserError(Exception):
    """The run cannot start or go on as it was asked for: shown as one line, exit code 2."""


class BadInputError(Exception):
    """One image cannot be worked on: recorded in failures.csv, the run goes on."""
