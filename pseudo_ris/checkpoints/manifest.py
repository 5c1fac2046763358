"""The published weights that third_party/weights.yaml lists, their local paths, and their expected checksums."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pseudo_ris.assets.data_files import IN_CHECKOUT, WEIGHTS_LIST
from pseudo_ris.errors import UserError, nearest

CHECKSUMS = "checksums.json"
MODELS = ("cutler", "sam", "coca", "clip", "spacy", "swin", "bert", "bert_words")
"""bert_words: a vocab.txt, BERT's word pieces."""
FORMATS = {"sha256": r"[0-9a-f]{64}", "md5": r"[0-9a-f]{32}", "file": r"[\w-][\w.-]*"}


@dataclass(frozen=True)
class HubFile:
    """A file of a Hugging Face repository whose name there is not known.

    patterns: shell patterns of paths in the repository; the first that fits exactly one file decides.
    """

    repo: str
    patterns: tuple[str, ...]


@dataclass(frozen=True)
class WeightsFile:
    """One published file. It has `urls`, tried in order, or `hub`.

    model: one of MODELS. architecture: the setting these weights belong to. file: its name in the weights folder.
    size: bytes. sha256, md5: hex digits; None where unpublished. open_clip_tag: open_clip's name of these weights.
    """

    name: str
    model: str
    architecture: str
    file: str
    licence: str
    used_for: str
    urls: tuple[str, ...] = ()
    hub: HubFile | None = None
    size: int | None = None
    sha256: str | None = None
    md5: str | None = None
    open_clip_tag: str | None = None


@dataclass(frozen=True)
class Manifest:
    """presets: name -> names of files. files: name -> file."""

    presets: Mapping[str, tuple[str, ...]]
    files: Mapping[str, WeightsFile]

    def select(self, names: Sequence[str]) -> tuple[WeightsFile, ...]:
        """The files of presets and of single names, each once. Raises UserError that gives the nearest name."""
        chosen: dict[str, WeightsFile] = {}
        known = [*self.presets, *self.files]
        for name in names:
            if name not in known:
                raise UserError(
                    f"{name}: no such preset or file; did you mean {nearest(name, known)}? (known: {', '.join(known)})"
                )
            chosen.update({each: self.files[each] for each in self.presets.get(name, (name,))})
        return tuple(chosen.values())

    def find_tag(self, architecture: str, tag: str) -> WeightsFile | None:
        """The file of an open_clip tag, in any of the spellings that open_clip accepts; None when there is none."""
        wanted = (architecture, tag.lower().replace("-", "_"))
        return next((file for file in self.files.values() if (file.architecture, file.open_clip_tag) == wanted), None)


def read_manifest(path: Path = WEIGHTS_LIST) -> Manifest:
    """Reads a manifest. Raises UserError that names the file and the field that is missing, unknown or not of its form."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; restore it from the repository, or reinstall pseudo-ris") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML ({' '.join(str(error).split())}); restore it") from error
    _check_fields(content, {"presets", "files"}, set(), f"{path}: ")
    for field in ("presets", "files"):
        _require(isinstance(content[field], dict), f"{path}: {field}", "must map names to entries")
    files = {name: _read_file(entry, str(name), path) for name, entry in content["files"].items()}
    for preset, names in content["presets"].items():
        _require(isinstance(names, list), f"{path}: presets.{preset}", "must be a list of names")
        for name in names:
            _require(name in files, f"{path}: presets.{preset}", f"{name} is not in files")
    return Manifest({preset: tuple(names) for preset, names in content["presets"].items()}, files)


def weights_folder() -> Path:
    """The folder of downloaded weights: $PSEUDO_RIS_WEIGHTS if set, else third_party/weights of the checkout.

    Without a checkout it is pseudo-ris/weights in the user's cache folder, $XDG_CACHE_HOME or ~/.cache.
    """
    if chosen := os.environ.get("PSEUDO_RIS_WEIGHTS"):
        return Path(chosen)
    if IN_CHECKOUT:
        return WEIGHTS_LIST.with_name("weights")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pseudo-ris" / "weights"


def local_path(entry: WeightsFile, folder: Path | None = None) -> Path:
    """Where an entry's file lies, or will lie, in `folder` (default: weights_folder())."""
    return (folder or weights_folder()) / entry.file


def held_checksum(entry: WeightsFile, folder: Path | None = None) -> str | None:
    """Sha256 an entry's file must have: the published one, else the one recorded in `folder`; None before any download.

    Raises UserError when the record cannot be read.
    """
    return entry.sha256 or read_checksums(folder or weights_folder()).get(entry.file)


def read_checksums(folder: Path) -> dict[str, str]:
    """Sha256 by file name, as recorded in `folder` at first downloads. Raises UserError when the record cannot be read."""
    path = folder / CHECKSUMS
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())}); restore or remove it") from error
    _require(isinstance(content, dict), str(path), "must map file names to sha256; restore or remove it")
    for name, sha256 in content.items():
        _require(_has_format("sha256", sha256), f"{path}: {name}", "must be 64 hex digits; restore or remove the file")
    return content


def _read_file(entry: Any, name: str, path: Path) -> WeightsFile:
    where = f"{path}: files.{name}"
    fields = {field.name: field for field in dataclasses.fields(WeightsFile) if field.name != "name"}
    required = {key for key, field in fields.items() if field.default is dataclasses.MISSING}
    _check_fields(entry, required, fields.keys() - required, f"{where}.")
    for field, value in entry.items():
        if field not in ("urls", "hub", "size"):
            _require(isinstance(value, str), f"{where}.{field}", f"must be text, got {value!r}")
        if field in FORMATS:
            _require(_has_format(field, value), f"{where}.{field}", f"must be of the form {FORMATS[field]}, got {value!r}")
    _require(entry["model"] in MODELS, f"{where}.model", f"must be one of {', '.join(MODELS)}")
    size = entry.get("size", 1)
    _require(type(size) is int and size > 0, f"{where}.size", "must be a number of bytes")
    _require(("urls" in entry) != ("hub" in entry), where, "must have either urls or hub")
    if "urls" in entry:
        _check_texts(entry["urls"], f"{where}.urls")
        _require(all(url.startswith("https://") for url in entry["urls"]), f"{where}.urls", "must be https addresses")
        return WeightsFile(name=name, **{**entry, "urls": tuple(entry["urls"])})
    _check_fields(entry["hub"], {"repo", "patterns"}, set(), f"{where}.hub.")
    _require(isinstance(entry["hub"]["repo"], str), f"{where}.hub.repo", "must be OWNER/NAME")
    _check_texts(entry["hub"]["patterns"], f"{where}.hub.patterns")
    hub = HubFile(entry["hub"]["repo"], tuple(entry["hub"]["patterns"]))
    return WeightsFile(name=name, **{**entry, "hub": hub})


def _check_fields(content: Any, required: set[str], optional: set[str], prefix: str) -> None:
    """prefix: what comes before a field's name in messages."""
    _require(isinstance(content, dict), prefix.rstrip(". :"), f"must have the fields {', '.join(sorted(required))}")
    for field in sorted(required - content.keys()):
        raise UserError(f"{prefix}{field}: is missing; add it")
    for field in content.keys() - required - optional:
        raise UserError(f"{prefix}{field}: no such field; known are {', '.join(sorted(required | optional))}")


def _check_texts(value: Any, where: str) -> None:
    texts = isinstance(value, list) and all(isinstance(each, str) for each in value)
    _require(texts and value, where, "must be a list of texts")


def _has_format(field: str, value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(FORMATS[field], value) is not None


def _require(condition: object, where: str, message: str) -> None:
    if not condition:
        raise UserError(f"{where}: {message}")
