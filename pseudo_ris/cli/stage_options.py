"""The stages' settings as options: `--help` shows those that people use first, `--help-all` every one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeVar, get_args, get_origin

from pseudo_ris.assets.data_files import preset_names
from pseudo_ris.cli.parsing import CommandParser
from pseudo_ris.stages.settings import Setting, parse_config, settings_of

Config = TypeVar("Config")
METAVARS = {int: "N", float: "X", str: "TEXT"}


def parse_stage(stage: type[Config], argv: Sequence[str], command: str, description: str, first: Sequence[str]) -> Config:
    """Settings of a stage from a command line. `--help` and `--help-all` print their page and raise SystemExit.

    first: settings that `--help` shows, in this order.
    Raises UserError as `parse_config`.
    """
    if "--help-all" in argv:
        make_parser(stage, command, description).print_help()
    elif "-h" in argv or "--help" in argv:
        make_parser(stage, command, description, first).print_help()
    else:
        return parse_config(stage, argv)
    raise SystemExit(0)


def make_parser(stage: type, command: str, description: str, shown: Sequence[str] | None = None) -> CommandParser:
    """A parser with the settings `shown`, or with all; for help pages and completion, values are read by `parse_config`."""
    parser = CommandParser(command, description, usage="%(prog)s [--config FILE] [--NAME VALUE ...]", add_help=False)
    pages = parser.add_argument_group("options")
    pages.add_argument("-h", "--help", action="store_true", help="show the options used most")
    pages.add_argument("--help-all", action="store_true", help="show every option")
    presets = ", ".join(preset_names())
    pages.add_argument("--config", metavar="FILE", help=f"YAML file of settings, or a preset: {presets}; options win over it")
    settings = settings_of(stage)
    groups = {"": pages}
    for setting in settings.values() if shown is None else map(settings.__getitem__, shown):
        title = "" if shown else setting.group
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        groups[title].add_argument(f"--{setting.name.replace('_', '-')}", **_shape(setting))
    return parser


def _shape(setting: Setting) -> dict[str, Any]:
    """How argparse shows a setting."""
    shape: dict[str, Any] = {"help": setting.description.rstrip(".").replace("%", "%%"), "default": setting.default}
    if setting.kind is bool and not setting.default:
        return {**shape, "action": "store_true"}
    if setting.kind is bool:
        return {**shape, "choices": ("true", "false"), "default": "true"}
    if get_origin(setting.kind) is Literal:
        return {**shape, "choices": get_args(setting.kind)}
    if get_origin(setting.kind) is tuple:
        (kind, *_) = get_args(setting.kind)
        if get_origin(kind) is Literal:
            return {**shape, "nargs": "*", "choices": get_args(kind)}
        return {**shape, "nargs": "*", "metavar": METAVARS[kind]}
    return {**shape, "metavar": METAVARS[setting.kind]}
