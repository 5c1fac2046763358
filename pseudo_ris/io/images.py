"""The only place that lists and decodes images."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from os.path import isfile, splitext
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.io.gc_tuning import no_collection
from pseudo_ris.io.image_ids import META, image_id_of
from pseudo_ris.records import ImageRecord

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")
"""Pillow's names of what the files may hold. Of its other decoders some start programs (PostScript) or check sizes too late."""
KNOWN_TYPES = " ".join(sorted(SUFFIXES))
UNREAD_SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("arw", "avif", "cr2", "cr3", "dng", "eps", "gif", "heic", "heif", "ico", "j2k", "jfif"),
        *("jp2", "jxl", "nef", "pgm", "pnm", "ppm", "psd", "raw", "svg", "tga"),
    )
)
"""Other types of images: files of these are counted, so that the user learns that they are skipped."""
NAMELESS = "image.png"
"""Name of an image that comes without one."""
ImageLike: TypeAlias = "str | os.PathLike[str] | Image.Image | np.ndarray"
MIN_SIDE = 8
MAX_PIXELS = 100_000_000
MAX_NAMED = 3

# MAX_PIXELS is checked below, with an error of our own.
Image.MAX_IMAGE_PIXELS = None


@dataclass(frozen=True)
class Listing:
    """What is below a folder of images.

    names: of the images, relative paths with `/`, ordered. unread: how many files there are of each type of image that is not
    read. left_out: folders of masks, relative paths.
    """

    folder: Path
    names: list[str]
    unread: Counter[str]
    left_out: list[str]

    @property
    def records(self) -> list[ImageRecord]:
        """The images, in the order of `names`."""
        # A Path in each would take half of the memory.
        return [ImageRecord(image_id_of(name), name, partial(read_below, self.folder, name)) for name in self.names]

    def notices(self) -> Iterator[str]:
        """What a user may miss, a line each."""
        if self.unread:
            counts = ", ".join(f"{count} {suffix}" for suffix, count in sorted(self.unread.items()))
            yield f"{self.folder}: {self.unread.total()} files are skipped ({counts}); convert them to one of {KNOWN_TYPES}"
        for name in self.left_out[:MAX_NAMED]:
            yield f"{self.folder / name}: holds masks, which are skipped"
        if len(self.left_out) > MAX_NAMED:
            yield f"{self.folder}: {len(self.left_out) - MAX_NAMED} more folders hold masks, which are skipped"


@no_collection()
def list_images(folder: Path) -> list[ImageRecord]:
    """All images below `folder`, ordered by relative path. Raises UserError as `look_below`."""
    return look_below(folder).records


def look_below(folder: Path, masks: Path | None = None) -> Listing:
    """The images below `folder`, which may also be a single image file.

    Hidden files and folders, linked folders and folders of masks are left out. masks: this run's, whatever they hold; others
    are recognized by what stage 1 notes in `_meta` beside them.
    Raises UserError when there is no such folder, it cannot be read, holds no image or is that of the masks.
    """
    if folder.is_file():
        return _single(folder)
    if not folder.is_dir():
        raise UserError(f"--images {folder}: no such folder; give the folder that holds the images")
    own = _relative(masks, folder) if masks is not None else None
    if own == "":
        raise UserError(f"--masks {masks}: is the folder of images, too; give the masks a folder of their own")
    found = Listing(folder, [], Counter(), [])
    try:
        _fill(found, own)
    except OSError as error:
        place = str(error.filename)[:200]
        raise UserError(
            f"--images {folder}: {place} cannot be read ({error.strerror}); check the folder and its rights"
        ) from error
    if not found.names:
        why = "".join(f"; {notice}" for notice in found.notices())
        raise UserError(f"--images {folder}: holds no image; known types are {KNOWN_TYPES}{why}")
    found.names.sort()
    found.left_out.sort()
    return found


def require_outside(path: Path, images: Path, option: str) -> None:
    """Raises UserError when an image file at `path`, or a folder of some, would be listed with the images."""
    if images.is_dir() and _relative(path, images) is not None:
        raise UserError(f"{option} {path}: lies in the folder of images and would be taken for one of them; write it elsewhere")


def _single(path: Path) -> Listing:
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(
            f"--images {path}: is a file, but no image of a known type ({KNOWN_TYPES}); convert it or give a folder"
        )
    return Listing(path.parent, [path.name], Counter(), [])


def _relative(path: Path, folder: Path) -> str | None:
    """`path` relative to the folder, with `/`, "" for the folder itself; None if it is elsewhere."""
    place, above = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    if not place.is_relative_to(above):
        return None
    return "" if place == above else place.relative_to(above).as_posix()


def _fill(found: Listing, masks: str | None) -> None:
    """Looks at all folders below found.folder, in any order. Made for millions of files and folders of any depth."""
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        names: list[str] = []
        below: list[str] = []
        with os.scandir(f"{found.folder}/{prefix}") as entries:
            for entry in entries:
                name = entry.name
                if name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    below.append(name)
                    continue
                suffix = splitext(name)[1].lower()  # noqa: PTH122 (a Path costs far more)
                if suffix in SUFFIXES and _is_file(entry):
                    names.append(prefix + name)
                elif suffix in UNREAD_SUFFIXES:
                    found.unread[suffix] += 1
        if prefix and prefix[:-1] == masks:
            found.left_out.append(masks)
            continue
        if META in below and (kept := _without_masks(f"{found.folder}/{prefix}", below)) != below:
            found.left_out.append(prefix[:-1])
            # Beside masks alone there may be those of an image that a killed run has not noted.
            below = kept if names else []
        found.names.extend(names)
        waiting.extend(f"{prefix}{name}/" for name in below)


def _without_masks(place: str, below: list[str]) -> list[str]:
    """Of the folders below `place`, those whose masks are not noted in the one called `_meta`; all where none are."""
    noted = {name.removesuffix(".json") for name in os.listdir(f"{place}/{META}")}  # noqa: PTH208 (as above)
    kept = [name for name in below if name != META and name not in noted]
    return kept if len(kept) < len(below) - 1 else below


def _is_file(entry: os.DirEntry[str]) -> bool:
    """A link to itself is none; DirEntry's own question would raise an error."""
    return isfile(entry.path) if entry.is_symlink() else entry.is_file()  # noqa: PTH113


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


def open_image(data: bytes) -> Image.Image:
    """An image file of one of FORMATS, its pixels not yet decoded. Nothing else calls Image.open; raises what that raises."""
    return Image.open(io.BytesIO(data), formats=FORMATS)


def encode_image(image: ImageLike) -> tuple[str, bytes]:
    """Name and encoded file of an image that a program hands over.

    image: path of an image file; a PIL image; or an array, RGB uint8 [H, W, 3]. What is no file becomes the PNG `image.png`.
    Raises UserError when it is none of these, or the file cannot be read.
    """
    if isinstance(image, str | os.PathLike):
        try:
            return Path(image).name, read_bytes(Path(image))
        except BadInputError as error:
            raise UserError(f"image {error}") from error
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise UserError(f"image: must be RGB uint8 [H, W, 3], got {image.dtype} {list(image.shape)}; convert the array")
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise UserError(f"image: must be a path, a PIL image or a uint8 array [H, W, 3], got {type(image).__name__}")
    content = io.BytesIO()
    try:
        _to_rgb(ImageOps.exif_transpose(image), NAMELESS).save(content, "png", compress_level=1)
    except BadInputError as error:
        raise UserError(f"image {error}") from error
    return NAMELESS, content.getvalue()


def load_image(image: ImageLike) -> np.ndarray:
    """The pixels, RGB uint8 [H, W, 3], of an image that a program hands over, see `encode_image`. Raises UserError."""
    name, data = encode_image(image)
    try:
        return decode_image(data, name)
    except BadInputError as error:
        raise UserError(f"image {error}") from error


def decode_image(data: bytes, name: str) -> np.ndarray:
    """Decodes an image file to RGB uint8 [H, W, 3], upright by its EXIF orientation.

    Greyscale is repeated, 16 bits a channel are scaled to 8, transparency is laid on white.
    Raises BadInputError when the file is no whole image, is smaller than 8 pixels a side or larger than 100 megapixels.
    """
    try:
        with open_image(data) as file:
            _check_size(file.size, name)
            file.load()
            pixels = np.array(_to_rgb(ImageOps.exif_transpose(file), name))  # a copy: Pillow's own is read-only
    except UnidentifiedImageError as error:  # its own text holds a memory address
        known = ", ".join(FORMATS)
        raise BadInputError(
            f"{name}: not a readable image (none of {known}, or damaged); convert or replace the file"
        ) from error
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


def check_size(height: Any, width: Any) -> None:
    """Raises BadInputError unless these are the sides, in pixels, of an image that the project reads."""
    for name, side in (("height", height), ("width", width)):
        if type(side) is not int or side < 1:
            raise BadInputError(f"{name}: {str(side)[:40]!r} is no number of pixels")
    if height * width > MAX_PIXELS:
        raise BadInputError(f"height, width: {width}x{height} pixels; at most {MAX_PIXELS // 10**6} megapixels are read")
