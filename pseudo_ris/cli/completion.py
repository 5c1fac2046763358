"""Prints the completion of `pseudo-ris` for a shell.

    pseudo-ris completion bash > ~/.local/share/bash-completion/completions/pseudo-ris
    pseudo-ris completion zsh > ~/.zfunc/_pseudo-ris      with ~/.zfunc in fpath

Print it again after an update of the package.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module

import shtab

from pseudo_ris.cli.main import COMMANDS, LAB, module_of
from pseudo_ris.cli.parsing import CommandParser


def main(argv: Sequence[str]) -> int:
    """Prints a completion script; returns the exit code."""
    options = make_parser().parse_args(argv)
    print(shtab.complete(whole_command(), options.shell))
    return 0


def make_parser() -> CommandParser:
    parser = CommandParser("completion", __doc__)
    parser.add_argument("shell", choices=shtab.SUPPORTED_SHELLS, help="the shell that reads the script")
    return parser


def whole_command() -> CommandParser:
    """A parser of `pseudo-ris` with every subcommand and its options; made for completion, so it imports all commands."""
    parser = CommandParser(prog="pseudo-ris")
    commands = parser.add_subparsers()
    _add_commands(commands, COMMANDS, ())
    lab = commands.add_parser("lab", help=COMMANDS["lab"]).add_subparsers()
    _add_commands(lab, LAB, ("lab",))
    return parser


def _add_commands(parsers: argparse._SubParsersAction, commands: dict[str, str], prefix: tuple[str, ...]) -> None:
    for name, description in commands.items():
        if name != "lab":
            parent = import_module(module_of((*prefix, name))).make_parser()
            parsers.add_parser(name, parents=[parent], add_help=False, help=description, description=description)
