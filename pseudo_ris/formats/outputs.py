"""Sets on disk appear whole, in a place that was free."""

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

OTHER_PLACE = "choose another place or remove it first"
DATASET_NAME = re.compile(r"\w[\w.+-]{0,63}")


@contextmanager
def new_place(out: Path) -> Iterator[Path]:
    """A temporary name beside `out` that becomes `out`, be it a file or a folder, when the block ends well.

    Raises UserError when `out` exists or cannot be written; then nothing is left behind.
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
    """As `new_place`, an empty folder to fill."""
    with new_place(out) as temporary:
        temporary.mkdir()
        yield temporary


def require_free(out: Path) -> None:
    """Raises UserError when something is at `out`."""
    if out.exists() or out.is_symlink():
        raise UserError(f"{out}: exists already; {OTHER_PLACE}")


def check_dataset(name: str) -> None:
    """Raises UserError unless a data set's name can be that of a folder beside the images'."""
    if not DATASET_NAME.fullmatch(name) or name == IMAGES:
        raise UserError(f"--dataset {name}: is no name of a folder; letters, digits, _ + - and . are")


def image_bytes(image: PairImage) -> bytes:
    """The encoded image. Raises UserError."""
    try:
        return image.read()
    except BadInputError as error:
        raise UserError(f"image {image.image_id!r:.80}: {error}") from error


def copy_image(image: PairImage, folder: Path) -> None:
    """Writes `<folder>/<name>`, if it is not there: an image may come once a split. Raises UserError."""
    target = folder / image.name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(image_bytes(image))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
