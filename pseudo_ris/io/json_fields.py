"""Annotation files as the stages read them: lists of images and of annotations, checked field by field; no mask is made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pseudo_ris.errors import UserError

Value = TypeVar("Value")


@dataclass(frozen=True)
class ListedImage:
    """An image of a COCO file: its id and file name. size: (height, width), None where the file says none."""

    image_id: str
    name: str
    size: tuple[int, int] | None


def read_json(path: Path) -> Any:
    """Content of a JSON file. Raises UserError."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; give a JSON file that can be read") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({' '.join(str(error).split())[:200]}); get the file again") from error


def entries_of(content: Any, path: Path, name: str = "") -> Iterator[tuple[dict[str, Any], str]]:
    """The entries of a list of objects, or of the list `name` of an object, each with what an error calls it.

    Raises UserError when there is no such list or an entry is no object.
    """
    entries = content
    if name:
        entries = content.get(name) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise UserError(f"{path}: has no list{f' {name}' if name else ''}; is it another kind of file?")
    for number, entry in enumerate(entries):
        where = f"{path}, {name or 'entry'} {number}"
        if not isinstance(entry, dict):
            raise UserError(f"{where}: is no object with named fields; get the file again")
        yield entry, where


def field(entry: dict[str, Any], name: str, kind: type[Value], where: str) -> Value:
    """A field of an entry. Raises UserError when it is missing or of another kind."""
    value = entry.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise UserError(f"{where}: {name} is missing or no {kind.__name__}; get the file again")
    return value


def coco_images(content: Any, path: Path) -> dict[int, ListedImage]:
    """The images of a COCO file's content by `id`, in its order; their own id is a text `image_id` where there is one.

    (Exports write it where an id is no number.) Raises UserError.
    """
    images: dict[int, ListedImage] = {}
    taken: set[str] = set()
    for entry, where in entries_of(content, path, "images"):
        number = field(entry, "id", int, where)
        image_id = field(entry, "image_id", str, where) if "image_id" in entry else str(number)
        if number in images or image_id in taken:
            raise UserError(f"{where}: id {image_id[:40]} is there twice; get the file again")
        taken.add(image_id)
        images[number] = ListedImage(image_id, field(entry, "file_name", str, where), _size_of(entry))
    return images


def _size_of(entry: dict[str, Any]) -> tuple[int, int] | None:
    size = entry.get("height"), entry.get("width")
    return size if all(isinstance(side, int) for side in size) else None
