"""Command lines of the recipes: dataclass -> options, YAML presets, one-line errors."""

from __future__ import annotations

import dataclasses
import math
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_origin, get_type_hints

import yaml
from docstring_parser import parse as parse_docstring
from jsonargparse import ArgumentError, ArgumentParser

from pseudo_ris.assets.data_files import preset_names, preset_path
from pseudo_ris.config import RANDOM, CaptionGenerationConfig, MaskGenerationConfig
from pseudo_ris.errors import UserError, nearest
from pseudo_ris.ris.config import EvaluateConfig, TrainConfig

STAGES = (MaskGenerationConfig, CaptionGenerationConfig, TrainConfig, EvaluateConfig)
LEVELS = 2
"""How deep mappings of settings are read: a group, a setting, and what should not be below it."""
DEEPEST = 20
"""How deep a YAML file may be nested."""
FULL_SIZE = "default"
"""The preset that `--weights random` takes when no file is given."""

Config = TypeVar("Config")


class Setting(NamedTuple):
    """One setting of a stage: its group's title, dotted name, type, default and description."""

    group: str
    name: str
    kind: Any
    default: Any
    description: str


def parse_config(stage: type[Config], argv: Sequence[str]) -> Config:
    """Settings of a stage from `--config FILE` (repeatable) and options; later files and options win.

    FILE is a YAML file or the bare name of a preset. It may hold the settings of all stages; other stages' settings are
    checked by name and ignored. `--weights random` without `--config` takes the preset "default", so that the models are of
    full size.
    Raises UserError that names an unknown key's nearest valid one, or the key whose value does not fit.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(stage)
    options: list[str] = []
    rest = _normalised(stage, argv)
    if _dry_run(rest) and "--config" not in rest:
        rest = ["--config", FULL_SIZE, *rest]
    while "--config" in rest:
        at = rest.index("--config")
        if at + 1 == len(rest):
            raise UserError("--config: needs a YAML file")
        options += _options_of_file(stage, _file_of(rest[at + 1]))
        rest = rest[:at] + rest[at + 2 :]
    try:
        parsed = parser.instantiate(parser.parse_args(options + rest))
        config = stage(**{field.name: parsed[field.name] for field in dataclasses.fields(stage)})
    except (ArgumentError, ValueError, RecursionError) as error:
        raise UserError(_one_line(error)) from error
    _check_finite(config)
    return _with_random_weights(config) if getattr(config, "weights", None) == RANDOM else config


def stage_settings(stage: type[Config], preset: str | Path, settings: Mapping[str, Any]) -> Config:
    """Settings of a stage for a program: those of a preset, and `settings` that win over them.

    preset: name of a preset, or a YAML file. settings: dotted or nested names of any stage's settings.
    Raises UserError as `parse_config`, and when there is no such preset.
    """
    options = _options_of(stage, settings, "settings")
    return parse_config(stage, ["--config", str(preset), *options])


def _dry_run(options: Sequence[str]) -> bool:
    return ("--weights", RANDOM) in pairwise(options)


def _with_random_weights(config: Config) -> Config:
    """`config` with every model's own weights set to random; head nouns come without a download, too."""
    parts = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    replaced = {name: dataclasses.replace(part, weights=RANDOM) for name, part in parts.items() if hasattr(part, "weights")}
    if (scoring := parts.get("scoring")) and scoring.noun_finder == "spacy":
        replaced["scoring"] = dataclasses.replace(scoring, noun_finder="auto")
    return dataclasses.replace(config, **replaced)


@cache
def settings_of(stage: type) -> dict[str, Setting]:
    """All settings of a stage by their dotted names, as its dataclass lists and describes them."""
    return {setting.name: setting for setting in _walk(stage, "", "")}


def _walk(part: type, group: str, prefix: str) -> Iterator[Setting]:
    parameters = [each for base in part.__mro__ for each in parse_docstring(base.__doc__ or "").params]
    described = {each.arg_name: " ".join((each.description or "").split()) for each in parameters}
    kinds, defaults = get_type_hints(part), part()
    for field in dataclasses.fields(part):
        kind = kinds[field.name]
        if dataclasses.is_dataclass(kind):
            title = parse_docstring(kind.__doc__).short_description or field.name
            yield from _walk(kind, title.rstrip("."), f"{field.name}.")
        else:
            yield Setting(group, prefix + field.name, kind, getattr(defaults, field.name), described[field.name])


def _normalised(stage: type, argv: Sequence[str]) -> list[str]:
    """Options with underscores, `--name=value` split, switches (`--retry-failed`) with their value, lists as one value."""
    settings = settings_of(stage)
    result: list[str] = []
    rest = deque(argv)
    while rest:
        argument = rest.popleft()
        if not argument.startswith("--"):
            result.append(argument)
            continue
        name, *value = argument[2:].split("=", 1)
        name = name.replace("-", "_")
        if name != "config":
            _check_known(name, settings, f"--{name}")
        kind = settings[name].kind if name in settings else None
        if kind is bool and not value and (not rest or rest[0] not in ("true", "false")):
            value = ["true"]
        if get_origin(kind) is tuple:
            while rest and not rest[0].startswith("--"):
                value.append(rest.popleft())
            value = [_inline_list(value)]
        result += [f"--{name}", *value]
    return result


def _inline_list(words: Sequence[str]) -> str:
    """YAML of a list that is written `val testA`, `val,testA` or `[val, testA]`."""
    listed = words and words[0].startswith("[")
    return " ".join(words) if listed else f"[{','.join(words)}]"


def _check_known(name: str, known: Mapping[str, Any], shown: str) -> None:
    if name not in known:
        raise UserError(f"{shown}: no such setting; did you mean {nearest(name, known)}? (--help-all lists them)")


def _check_finite(config: object) -> None:
    """Raises UserError that names the first setting that is infinite or NaN."""
    for name in settings_of(type(config)):
        value = attrgetter(name)(config)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise UserError(f"{name}: must be a finite number, got {number}")


class _SettingsLoader(yaml.SafeLoader):
    """Reads YAML that is not nested deeper than settings could be; Python's stack would end, after many seconds."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.depth > DEEPEST:
            raise yaml.MarkedYAMLError(problem=f"nested more than {DEEPEST} deep", problem_mark=self.peek_event().start_mark)
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def _file_of(given: str) -> Path:
    """The YAML file that `--config` names: a path, or the bare name of a preset."""
    return preset_path(given) if re.fullmatch(r"[\w-]+", given) else Path(given)


def _options_of_file(stage: type, path: Path) -> list[str]:
    """The file's settings for this stage as options."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _SettingsLoader)
    except OSError as error:
        raise UserError(
            f"--config {path}: {error.strerror}; give a YAML file or a preset: {', '.join(preset_names())}"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"--config {path}: not YAML ({_one_line(error)})") from error
    if not isinstance(content, dict):
        raise UserError(f"--config {path}: holds no settings; see configs/demo.yaml")
    return _options_of(stage, content, str(path))


def _options_of(stage: type, content: Mapping[Any, Any], source: str) -> list[str]:
    """The settings for this stage in a mapping, as options. source: what an error calls the place they come from."""
    everything = {name: setting for each in STAGES for name, setting in settings_of(each).items()}
    own = settings_of(stage)
    options: list[str] = []
    for name, value in _flat(content):
        _check_known(name, everything, f"{source}: {name}")
        if name in own:
            _check_plain(value, f"{source}: {name}")
            options.append(f"--{name}={_inline(value)}")
    return options


def _inline(value: Any) -> str:
    """YAML of a value on one line, as the option parser reads it; texts are read as they are, without quotes."""
    if isinstance(value, str):
        return value
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6).strip()
    return text.removesuffix("...").strip()


def _check_plain(value: Any, shown: str) -> None:
    """Raises UserError unless `value` is a scalar or a list of scalars; YAML's aliases may make lists without end."""
    for each in value if isinstance(value, list) else (value,):
        if isinstance(each, list | dict | set):
            raise UserError(f"{shown}: must be a value or a list of values, not a list or mapping in another one")


def _flat(content: Mapping[Any, Any], prefix: str = "", levels: int = LEVELS) -> list[tuple[str, Any]]:
    """Dotted names and values, down to one level below the settings', where a name is unknown whatever it is.

    A mapping may contain itself, so there must be a limit.
    """
    pairs: list[tuple[str, Any]] = []
    for key, value in content.items():
        name = f"{prefix}{key}"
        deeper = isinstance(value, dict) and levels > 0
        pairs += _flat(value, f"{name}.", levels - 1) if deeper else [(name, value)]
    return pairs


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    text = re.sub(r"^Parser key \"([^\"]*)\":", r"\1:", text)
    text = re.sub(r"<class '(\w+)'>", r"\1", text)
    return text.replace("typing.Literal", "one of ").replace("Expected a ", "expected ").replace("Got value", "got")
