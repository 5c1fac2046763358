"""Reads and writes WebDataset shards (`NAME-000000.tar`, ...) with `<key>.<suffix>` and `<key>.json` for each image.

Keys are the numbers of the images in the set. The JSON has the fields of samples.entry_of. The library `webdataset` can read
the shards.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import count
from pathlib import Path, PurePosixPath

from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.formats.instances import SEPARATE
from pseudo_ris.formats.outputs import check_dataset, image_bytes, new_folder
from pseudo_ris.formats.samples import entry_of, image_of
from pseudo_ris.io.images import SUFFIXES
from pseudo_ris.pairs.pair_set import PairImage, checked_images

SHARD_BYTES = 256 << 20
"""Maximum size of the images of a shard."""
SHARD_IMAGES = 10_000
OTHER_SUFFIX = ".image"
"""Suffix for images whose name has no image suffix."""
REGULAR_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE)
MEMBER_NAME = re.compile(r"([^./\\\0]+)\.([a-z]+)")


def read_webdataset(path: Path, images: Path | None = None) -> Iterator[PairImage]:
    """Yields the images of a folder of shards (sorted by name) or of one shard, without unpacking to disk.

    images: ignored; the shards contain the images. Raises UserError that names the shard and member, also for links, folders
    and unsafe names.
    """
    shards = sorted(path.glob("*.tar")) if path.is_dir() else [path]
    if not shards:
        raise UserError(f"{path}: contains no .tar; give the folder of the shards")
    return checked_images((image for shard in shards for image in _read_shard(shard)), str(path))


def _read_shard(shard: Path) -> Iterator[PairImage]:
    """Combines each image with the .json that follows it."""
    waiting: tuple[str, tarfile.TarInfo] | None = None
    for key, suffix, member in _members(shard):
        where = f"{shard}, member {member.name!r:.80}"
        if suffix != "json":
            if waiting:
                raise UserError(f"{where}: the image before it has no .json; get the shard again")
            waiting = key, member
            continue
        if waiting is None or waiting[0] != key:
            raise UserError(f"{where}: no image with this key before it; get the shard again")
        read = partial(_read_member, shard, waiting[1].offset_data, waiting[1].size)
        yield image_of(_json_of(shard, member, where), read, where)
        waiting = None
    if waiting:
        raise UserError(f"{shard}, member {waiting[1].name!r:.80}: has no .json; get the shard again")


def _members(shard: Path) -> Iterator[tuple[str, str, tarfile.TarInfo]]:
    """Yields key, suffix and member; checks that each is a complete regular file."""
    try:
        with tarfile.open(shard, "r:") as archive:
            size = shard.stat().st_size
            for member in archive:
                name = MEMBER_NAME.fullmatch(member.name)
                whole = member.size >= 0 and member.offset_data + member.size <= size
                if member.type not in REGULAR_FILES or member.sparse is not None or name is None or not whole:
                    where = f"{shard}, member {member.name!r:.80}"
                    raise UserError(f"{where}: is not a complete regular file named key.suffix; get the shard again")
                yield name[1], name[2], member
    except UserError:
        raise
    except Exception as error:  # damaged archives raise almost any exception
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{shard}: not a tar archive, or damaged ({reason}); get the shard again") from error


def _json_of(shard: Path, member: tarfile.TarInfo, where: str) -> dict:
    try:
        content = json.loads(_read_member(shard, member.offset_data, member.size))
    except (BadInputError, ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({' '.join(str(error).split())[:200]}); get the shard again") from error
    if not isinstance(content, dict):
        raise UserError(f"{where}: is not a JSON object; get the shard again")
    return content


def _read_member(shard: Path, offset: int, size: int) -> bytes:
    """Returns the content of a member. Raises BadInputError."""
    try:
        with shard.open("rb") as file:
            file.seek(offset)
            data = file.read(size)
    except OSError as error:
        raise BadInputError(f"{shard}: cannot be read ({error.strerror})") from error
    if len(data) != size:
        raise BadInputError(f"{shard}: ends within a member; get the shard again")
    return data


def write_webdataset(out: Path, images: Iterable[PairImage], dataset: str) -> None:
    """Writes a folder of shards `<dataset>-000000.tar`, ..., with one image in memory at a time. Raises UserError."""
    check_dataset(dataset)
    with new_folder(out) as folder, _Shards(folder, dataset) as shards:
        for number, image in enumerate(checked_images(images, str(out))):
            suffix = PurePosixPath(image.name).suffix.lower()
            data = image_bytes(image)
            shards.make_room(len(data))
            shards.add(f"{number:09d}{suffix if suffix in SUFFIXES else OTHER_SUFFIX}", data)
            shards.add(f"{number:09d}.json", json.dumps(entry_of(image), separators=SEPARATE).encode())


class _Shards:
    """Writes members to consecutive shards."""

    def __init__(self, folder: Path, name: str) -> None:
        self._paths = (folder / f"{name}-{number:06d}.tar" for number in count())
        self._open_next()

    def _open_next(self) -> None:
        self._archive = tarfile.open(next(self._paths), "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
        self._images = self._bytes = 0

    def make_room(self, size: int) -> None:
        """Starts the next shard if an image of this size would make the current one too large."""
        if self._images == SHARD_IMAGES or (self._images and self._bytes + size > SHARD_BYTES):
            self._archive.close()
            self._open_next()
        self._images += 1
        self._bytes += size

    def add(self, name: str, data: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        self._archive.addfile(member, io.BytesIO(data))

    def __enter__(self) -> _Shards:
        return self

    def __exit__(self, *error: object) -> None:
        self._archive.close()
