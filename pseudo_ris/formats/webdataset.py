"""WebDataset shards: `NAME-000000.tar`, ... in a folder; of each image `<key>.<suffix>`, its bytes, and `<key>.json`.

Keys are the images' numbers in the set. `webdataset` reads the shards as they are; the JSON is that of samples.entry_of.
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
from pseudo_ris.pairs.pair_set import PairImage, sound_images

SHARD_BYTES = 256 << 20
"""What a shard's images may come to before it is closed."""
SHARD_IMAGES = 10_000
OTHER_SUFFIX = ".image"
"""Of images whose name has no suffix of an image."""
REGULAR_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE)
MEMBER_NAME = re.compile(r"([^./\\\0]+)\.([a-z]+)")


def read_webdataset(path: Path, images: Path | None = None) -> Iterator[PairImage]:
    """Images of a folder of shards, or of one shard, in the order of the shards' names and within them.

    images: not needed, the shards hold them; nothing is unpacked to disk. Raises UserError that names the shard and member
    that do not fit: links, folders and names that lead elsewhere are refused.
    """
    shards = sorted(path.glob("*.tar")) if path.is_dir() else [path]
    if not shards:
        raise UserError(f"{path}: holds no .tar; give the folder of the shards")
    return sound_images((image for shard in shards for image in _read_shard(shard)), str(path))


def _read_shard(shard: Path) -> Iterator[PairImage]:
    """Pairs up the members, which follow each other."""
    waiting: tuple[str, tarfile.TarInfo] | None = None
    for key, suffix, member in _members(shard):
        where = f"{shard}, member {member.name!r:.80}"
        if suffix != "json":
            if waiting:
                raise UserError(f"{where}: follows another image; each has its .json behind it; get the shard again")
            waiting = key, member
            continue
        if waiting is None or waiting[0] != key:
            raise UserError(f"{where}: no image of this key stands before it; get the shard again")
        read = partial(_read_member, shard, waiting[1].offset_data, waiting[1].size)
        yield image_of(_json_of(shard, member, where), read, where)
        waiting = None
    if waiting:
        raise UserError(f"{shard}, member {waiting[1].name!r:.80}: has no .json; get the shard again")


def _members(shard: Path) -> Iterator[tuple[str, str, tarfile.TarInfo]]:
    """Key, suffix and member, each a plain file that is whole."""
    try:
        with tarfile.open(shard, "r:") as archive:
            size = shard.stat().st_size
            for member in archive:
                name = MEMBER_NAME.fullmatch(member.name)
                whole = member.size >= 0 and member.offset_data + member.size <= size
                if member.type not in REGULAR_FILES or member.sparse is not None or name is None or not whole:
                    where = f"{shard}, member {member.name!r:.80}"
                    raise UserError(f"{where}: is no plain file named key.suffix, or not whole; get the shard again")
                yield name[1], name[2], member
    except UserError:
        raise
    except Exception as error:  # damaged archives raise nearly anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{shard}: not a tar archive, or damaged ({reason}); get the shard again") from error


def _json_of(shard: Path, member: tarfile.TarInfo, where: str) -> dict:
    try:
        content = json.loads(_read_member(shard, member.offset_data, member.size))
    except (BadInputError, ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({' '.join(str(error).split())[:200]}); get the shard again") from error
    if not isinstance(content, dict):
        raise UserError(f"{where}: holds no object with named fields; get the shard again")
    return content


def _read_member(shard: Path, offset: int, size: int) -> bytes:
    """Content of a member. Raises BadInputError."""
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
    """Writes a folder of shards called `dataset`-000000.tar, ..., an image in memory at a time. Raises UserError."""
    check_dataset(dataset)
    with new_folder(out) as folder, _Shards(folder, dataset) as shards:
        for number, image in enumerate(sound_images(images, str(out))):
            suffix = PurePosixPath(image.name).suffix.lower()
            data = image_bytes(image)
            shards.make_room(len(data))
            shards.add(f"{number:09d}{suffix if suffix in SUFFIXES else OTHER_SUFFIX}", data)
            shards.add(f"{number:09d}.json", json.dumps(entry_of(image), separators=SEPARATE).encode())


class _Shards:
    """Writes members into one shard after the other."""

    def __init__(self, folder: Path, name: str) -> None:
        self._paths = (folder / f"{name}-{number:06d}.tar" for number in count())
        self._open_next()

    def _open_next(self) -> None:
        self._archive = tarfile.open(next(self._paths), "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
        self._images = self._bytes = 0

    def make_room(self, size: int) -> None:
        """Goes on to the next shard where another image of this size would make this one too large."""
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
