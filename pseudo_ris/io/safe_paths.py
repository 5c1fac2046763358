"""Checks that image names from untrusted files stay inside a folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pseudo_ris.errors import BadInputError
from pseudo_ris.io.images import read_bytes

IMAGES = "images"


def check_name(name: str) -> None:
    """Raises BadInputError unless `name` is a relative path with `/` that only goes down and can be written to any file."""
    try:
        plain = bool(name.encode()) and "\0" not in name and not {"", ".", ".."} & set(name.split("/"))
    except (AttributeError, UnicodeEncodeError):
        plain = False
    if not plain:
        raise BadInputError(f"name: {name!r:.80} is no path inside a folder")


def file_inside(folder: Path, name: str) -> Path:
    """The file at path `name` below `folder`.

    Raises BadInputError when there is no such file, or it lies elsewhere, be it by `..` or by a symbolic link.
    """
    check_name(name)
    try:
        place = Path(os.path.realpath(folder / name))
        if not place.is_relative_to(os.path.realpath(folder)):
            raise BadInputError(f"{name!r:.80}: leads out of {folder}; put the file itself there")
        found = place.is_file()
    except (OSError, ValueError) as error:
        raise BadInputError(f"{name!r:.80}: cannot be a file in {folder} ({error.__class__.__name__})") from error
    if not found:
        raise BadInputError(f"{name!r:.80}: no such file in {folder}; add it or give another folder")
    return place


def read_inside(folder: Path | None, name: str) -> bytes:
    """Content of the file at path `name` below `folder`. Raises BadInputError."""
    if folder is None:
        raise BadInputError(f"{name!r:.80}: the set holds no images and no folder of them was given; add --images DIR")
    return read_bytes(file_inside(folder, name))


def reader_inside(folder: Path | None, name: str) -> Callable[[], bytes]:
    """PairImage.read of an image in a folder; the file is looked at when it is called."""
    return partial(read_inside, folder, name)


def images_beside(path: Path, images: Path | None) -> Path | None:
    """The folder of a set's images: the one given, otherwise `<path>/images` where it exists."""
    if images is None and (path / IMAGES).is_dir():
        return path / IMAGES
    return images
