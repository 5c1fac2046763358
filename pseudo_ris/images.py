"""The only place that lists and decodes images."""

from __future__ import annotations

import io
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from os.path import isfile, splitext
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.garbage import no_collection
from pseudo_ris.records import ImageRecord

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
MIN_SIDE = 8
MAX_PIXELS = 100_000_000
MAX_ID_BYTES = 200
RESERVED_IDS = frozenset({"_meta", "_failures", ""})
FORBIDDEN_IN_IDS = frozenset("/\0")
MAX_NAMED_TWINS = 3
REMEDY = "rename the file, or mend the list that gives it its id"
COCO_NAME = re.compile(r"(?:COCO_[a-z]+\d{4}_)?(\d{12})")

# MAX_PIXELS is checked below, with an error of our own.
Image.MAX_IMAGE_PIXELS = None


@no_collection()
def list_images(folder: Path) -> list[ImageRecord]:
    """All images below `folder`, ordered by relative path; hidden files and folders are left out.

    Raises UserError when the folder is missing or holds no image.
    """
    if not folder.is_dir():
        raise UserError(f"--images {folder}: no such folder; give the folder that holds the images")
    # A Path in each would take half of the memory.
    try:
        names = sorted(_names_below(folder))
    except OSError as error:
        raise UserError(f"--images {folder}: {error.filename} cannot be read ({error.strerror}); check its rights") from error
    records = [ImageRecord(image_id_of(name), name, partial(read_below, folder, name)) for name in names]
    if not records:
        raise UserError(f"--images {folder}: holds no image; known types are {' '.join(sorted(SUFFIXES))}")
    return records


def _names_below(folder: Path | str, prefix: str = "") -> Iterator[str]:
    """Relative paths of the images below a folder, in any order; hidden and linked folders are left out. Made for millions."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _names_below(entry.path, f"{prefix}{entry.name}/")
            elif splitext(entry.name)[1].lower() in SUFFIXES and _is_file(entry):  # noqa: PTH122 (a Path costs far more)
                yield prefix + entry.name


def _is_file(entry: os.DirEntry[str]) -> bool:
    """A link to itself is none; DirEntry's own question would raise an error."""
    return isfile(entry.path) if entry.is_symlink() else entry.is_file()  # noqa: PTH113


def image_id_of(name: str) -> str:
    """Id of the image at relative path `name`: `COCO_train2014_000000000009.jpg` -> "9", `a/b.png` -> "a__b"."""
    stem = name.rsplit(".", 1)[0]
    coco = COCO_NAME.fullmatch(stem.rsplit("/", 1)[-1])
    return str(int(coco[1])) if coco else stem.replace("/", "__")


def check_ids(records: Sequence[ImageRecord]) -> dict[str, str]:
    """Image names that cannot be told apart or stored by their id: name -> reason."""
    counts = Counter(record.image_id for record in records)
    twins: dict[str, list[str]] = defaultdict(list)
    reasons: dict[str, str] = {}
    for record in records:
        image_id = record.image_id
        if counts[image_id] > 1:
            twins[image_id].append(record.name)
        elif not names_a_folder(image_id):
            reasons[record.name] = f"image id {image_id[:40]} is reserved, too long or no name of a folder; {REMEDY}"
    for image_id, names in twins.items():
        reasons |= {name: f"image id {image_id} is also that of {_others(names, name)}; {REMEDY}" for name in names}
    return reasons


def _others(names: Sequence[str], name: str) -> str:
    others = [other for other in names[: MAX_NAMED_TWINS + 1] if other != name][:MAX_NAMED_TWINS]
    more = len(names) - 1 - len(others)
    return ", ".join(others) + (f" and {more} more" if more else "")


def names_a_folder(image_id: str) -> bool:
    """Whether a folder of masks can have the id as its name."""
    allowed = image_id not in RESERVED_IDS and not image_id.startswith(".") and FORBIDDEN_IN_IDS.isdisjoint(image_id)
    return allowed and len(image_id.encode()) <= MAX_ID_BYTES


def read_below(folder: Path, name: str) -> bytes:
    """Content of the input file at path `name` below `folder`. Raises BadInputError."""
    return read_bytes(folder / name)


def read_bytes(path: Path) -> bytes:
    """Content of an input file. Raises BadInputError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInputError(f"{path.name}: cannot be read ({error.strerror}); check the file and its rights") from error
    if not data:
        raise BadInputError(f"{path.name}: is empty; replace the file")
    return data


def decode_image(data: bytes, name: str) -> np.ndarray:
    """Decodes an image file to RGB uint8 [H, W, 3], upright by its EXIF orientation.

    Greyscale is repeated, 16 bits a channel are scaled to 8, transparency is laid on white.
    Raises BadInputError when the file is no whole image, is smaller than 8 pixels a side or larger than 100 megapixels.
    """
    try:
        with Image.open(io.BytesIO(data)) as file:
            _check_size(file.size, name)
            file.load()
            pixels = np.array(_to_rgb(ImageOps.exif_transpose(file), name))  # a copy: Pillow's own is read-only
    except UnidentifiedImageError as error:  # its own text holds a memory address
        raise BadInputError(f"{name}: not a readable image (unknown format); replace the file") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadInputError(f"{name}: not a readable image ({error}); replace the file") from error
    return pixels


def _check_size(size: tuple[int, int], name: str) -> None:
    width, height = size
    if min(size) < MIN_SIDE:
        raise BadInputError(f"{name}: {width}x{height} pixels; at least {MIN_SIDE} a side are needed")
    if width * height > MAX_PIXELS:
        raise BadInputError(f"{name}: {width}x{height} pixels; at most {MAX_PIXELS // 10**6} megapixels are read")


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "F":
        raise BadInputError(f"{name}: floating-point pixels have no known range; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        # Pillow's own conversion clips 16-bit values at 255.
        return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")
