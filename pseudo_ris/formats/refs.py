"""Reads the refs files of REFER data sets (refcoco, refcoco+, refcocog): `<dataset>/refs(<splitBy>).p`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pseudo_ris.errors import UserError
from pseudo_ris.io.safe_pickle import read_plain_pickle

INSTANCES = "instances.json"
LARGEST_NUMBER = 2**63 - 1
NUMBERED_COCO_NAME = re.compile(r"(COCO_[a-z]+[0-9]{4}_[0-9]{12})_[0-9]+(\.[a-z]+)")

Value = TypeVar("Value")


@dataclass(frozen=True)
class Sentence:
    """One expression of a ref. raw: as typed; sent: cleaned; tokens: the words of `sent`."""

    sent_id: int
    sent: str
    raw: str
    tokens: tuple[str, ...]


@dataclass(frozen=True)
class Ref:
    """One object with its expressions.

    ann_id, image_id, category_id: ids in instances.json. file_name: name of the image, in most sets with a number before the
    suffix.
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
    """Reads the refs of a `refs(<splitBy>).p` in file order, without running pickle code.

    Raises UserError that names the file, ref and field.
    """
    content = read_plain_pickle(path)
    if not isinstance(content, list):
        raise UserError(f"{path}: is {type(content).__name__}, not a list of refs; give the refs(...).p of a REFER set")
    return [_ref(entry, f"{path}, ref {number}") for number, entry in enumerate(content)]


def refs_of_split(path: Path, split: str) -> list[Ref]:
    """Reads the refs of one split. Raises UserError that lists the existing splits."""
    refs = read_refs(path)
    chosen = [ref for ref in refs if ref.split == split]
    if not chosen:
        splits = ", ".join(sorted({ref.split for ref in refs})) or "none"
        raise UserError(f"--split {split}: {path} has no such split; choose one of: {splits}")
    return chosen


def plain_name(file_name: str) -> str:
    """Removes the number that REFER sets add before the suffix of COCO's file names."""
    return NUMBERED_COCO_NAME.sub(r"\1\2", file_name)


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
    if not _is(value, kind):
        raise UserError(f"{where}: {name} is missing or not {kind.__name__}; give the refs(...).p of a REFER set")
    return value


def _all(values: list[Any], kind: type[Value], where: str) -> tuple[Value, ...]:
    if not all(_is(value, kind) for value in values):
        raise UserError(f"{where}: each entry must be {kind.__name__}; give the refs(...).p of a REFER set")
    return tuple(values)


def _is(value: Any, kind: type) -> bool:
    """True if a value has this type; rejects ints over 64 bits, which a pickle may contain."""
    return type(value) is kind and (kind is not int or abs(value) <= LARGEST_NUMBER)
