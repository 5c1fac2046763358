"""REFER data sets (refcoco, refcoco+, refcocog): `<dataset>/refs(<splitBy>).p` and, beside it, `<dataset>/instances.json`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pseudo_ris.errors import UserError
from pseudo_ris.interchange.plain_pickle import read_plain_pickle

INSTANCES = "instances.json"
NUMBERED_COCO_NAME = re.compile(r"(COCO_[a-z]+[0-9]{4}_[0-9]{12})_[0-9]+(\.[a-z]+)")

Value = TypeVar("Value")


@dataclass(frozen=True)
class Sentence:
    """One expression of a ref. raw: as it was typed; sent: cleaned; tokens: words of `sent`."""

    sent_id: int
    sent: str
    raw: str
    tokens: tuple[str, ...]


@dataclass(frozen=True)
class Ref:
    """One object with its expressions.

    ann_id, image_id, category_id: of instances.json. file_name: the image's, in most sets with a number before the suffix.
    """

    ref_id: int
    ann_id: int
    category_id: int
    image_id: int
    file_name: str
    split: str
    sent_ids: tuple[int, ...]
    sentences: tuple[Sentence, ...]


def read_refs(path: Path) -> list[Ref]:
    """Refs of a `refs(<splitBy>).p`, in its order. No pickle code is run.

    Raises UserError that names the file, and the ref and field that do not fit.
    """
    content = read_plain_pickle(path)
    if not isinstance(content, list):
        raise UserError(f"{path}: holds a {type(content).__name__}, not a list of refs; give the refs(...).p of a REFER set")
    return [_ref(entry, f"{path}, ref {number}") for number, entry in enumerate(content)]


def image_names(path: Path, split: str) -> list[str]:
    """File names of the images that the refs of a split are about, sorted, each once.

    They are those of instances.json where it lies beside `path`, otherwise the refs' own without their number
    (`COCO_train2014_000000000009_16.jpg` -> `COCO_train2014_000000000009.jpg`).
    Raises UserError when a file cannot be read, the split has no refs or an image is not in instances.json.
    """
    refs = read_refs(path)
    chosen = [ref for ref in refs if ref.split == split]
    if not chosen:
        splits = ", ".join(sorted({ref.split for ref in refs})) or "none at all"
        raise UserError(f"--split {split}: {path} has no such split; it has {splits}")
    instances = path.with_name(INSTANCES)
    names = _names_in(instances, chosen) if instances.exists() else {plain_name(ref.file_name) for ref in chosen}
    return sorted(names)


def plain_name(file_name: str) -> str:
    """A ref's file name without the number that REFER sets put before the suffix of COCO's names."""
    return NUMBERED_COCO_NAME.sub(r"\1\2", file_name)


def _names_in(path: Path, refs: Iterable[Ref]) -> set[str]:
    """File names of the refs' images by an instances.json."""
    try:
        images = json.loads(path.read_text(encoding="utf-8"))["images"]
        names = {image["id"]: Path(image["file_name"]).name for image in images}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a COCO file with images' id and file_name; get it again or move it away") from error
    unknown = sorted({ref.image_id for ref in refs} - names.keys())
    if unknown:
        raise UserError(f"{path}: has no image {unknown[0]}, which the refs name; get both files from the same set")
    return {names[ref.image_id] for ref in refs}


def _ref(entry: Any, where: str) -> Ref:
    sentences = _field(entry, "sentences", list, where)
    return Ref(
        ref_id=_field(entry, "ref_id", int, where),
        ann_id=_field(entry, "ann_id", int, where),
        category_id=_field(entry, "category_id", int, where),
        image_id=_field(entry, "image_id", int, where),
        file_name=_field(entry, "file_name", str, where),
        split=_field(entry, "split", str, where),
        sent_ids=_all(_field(entry, "sent_ids", list, where), int, f"{where}: sent_ids"),
        sentences=tuple(_sentence(inner, f"{where}, sentence {number}") for number, inner in enumerate(sentences)),
    )


def _sentence(entry: Any, where: str) -> Sentence:
    return Sentence(
        sent_id=_field(entry, "sent_id", int, where),
        sent=_field(entry, "sent", str, where),
        raw=_field(entry, "raw", str, where),
        tokens=_all(_field(entry, "tokens", list, where), str, f"{where}: tokens"),
    )


def _field(entry: Any, name: str, kind: type[Value], where: str) -> Value:
    value = entry.get(name) if isinstance(entry, dict) else None
    if not isinstance(value, kind):
        raise UserError(f"{where}: {name} is missing or no {kind.__name__}; give the refs(...).p of a REFER set")
    return value


def _all(values: list[Any], kind: type[Value], where: str) -> tuple[Value, ...]:
    if not all(isinstance(value, kind) for value in values):
        raise UserError(f"{where} must be {kind.__name__} each; give the refs(...).p of a REFER set")
    return tuple(values)
