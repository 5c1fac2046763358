"""Files of torch.save: the directory of the archive is checked before anything is unpacked."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch


def load_torch_file(path: Path, mmap: bool = False) -> Any:
    """`torch.load` of tensors and plain data on the CPU; takes no more memory than the file is large. No pickle code is run.

    mmap: leave tensors in the file until they are read, where it is an archive (files of torch before 1.6 are none).
    Raises ValueError when the archive would unpack to more than the file, and whatever torch.load raises.
    """
    is_archive = zipfile.is_zipfile(path)
    if is_archive:
        with zipfile.ZipFile(path) as archive:
            check_sizes(archive, path)
            check_stored(archive)
    return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and is_archive)


def check_sizes(archive: zipfile.ZipFile, path: Path) -> None:
    """Raises ValueError when the uncompressed entries of the archive at `path` are larger than the file: they overlap."""
    stored = sum(entry.file_size for entry in archive.infolist() if entry.compress_type == zipfile.ZIP_STORED)
    if stored > path.stat().st_size:
        raise ValueError("its entries are larger than the file")


def check_stored(archive: zipfile.ZipFile) -> None:
    """Raises ValueError unless the archive is as torch.save writes it: no entry compressed, the first at the file's start.

    Bytes before the first entry would let the file hold two directories, of which zipfile and torch read different ones.
    """
    entries = archive.infolist()
    compressed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
    if compressed:
        raise ValueError(f"its entry {compressed[0]:.80} is compressed, which torch.save does not do")
    if min((entry.header_offset for entry in entries), default=0) != 0:
        raise ValueError("it does not begin with its first entry")
