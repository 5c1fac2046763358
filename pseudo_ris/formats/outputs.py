"""Helpers for writing data sets: outputs appear complete, and never replace what exists."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.io.files import temporary_name, writing
from pseudo_ris.io.safe_paths import IMAGES
from pseudo_ris.pairs.pair_set import PairImage

OTHER_PLACE = "choose another path or remove it first"
DATASET_NAME = re.compile(r"\w[\w.+-]{0,63}")


@contextmanager
def new_place(out: Path) -> Iterator[Path]:
    """Context manager that yields a temporary path beside `out` (for a file or folder) and renames it to `out` on success.

    Removes it on failure. Raises UserError when `out` exists or cannot be written.
    """
    require_free(out)
    temporary = temporary_name(out)
    with writing(out):
        _remove(temporary)
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            temporary.rename(out)
        finally:
            _remove(temporary)


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Like `new_place`, but creates the temporary path as an empty folder."""
    with new_place(out) as temporary:
        temporary.mkdir()
        yield temporary


def require_free(out: Path) -> None:
    """Raises UserError when `out` exists."""
    if out.exists() or out.is_symlink():
        raise UserError(f"{out}: already exists; {OTHER_PLACE}")


def check_dataset(name: str) -> None:
    """Raises UserError unless the name of a data set is a valid folder name other than `images`."""
    if not DATASET_NAME.fullmatch(name) or name == IMAGES:
        raise UserError(f"--dataset {name}: is not a valid folder name; use letters, digits, _ + - and .")


def image_bytes(image: PairImage) -> bytes:
    """Returns the bytes of the encoded image. Raises UserError."""
    try:
        return image.read()
    except BadInputError as error:
        raise UserError(f"image {image.image_id!r:.80}: {error}") from error


def copy_image(image: PairImage, folder: Path) -> None:
    """Writes `<folder>/<name>` unless it exists (an image can occur in several splits). Raises UserError."""
    target = folder / image.name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(image_bytes(image))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
