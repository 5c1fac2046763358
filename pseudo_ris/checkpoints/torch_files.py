"""Reads files of torch.save and TorchScript archives; an archive's directory is checked before anything is unpacked."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch


def load_torch_file(path: Path, mmap: bool = False) -> Any:
    """`torch.load` of tensors and plain data onto the CPU. Runs no pickle code and needs no more memory than the file's size.

    mmap: leave tensors in the file until they are read. Ignored for files of torch before 1.6, which are not archives.
    Raises ValueError when the archive would unpack to more than the file, and whatever torch.load raises.
    """
    is_archive = zipfile.is_zipfile(path)
    if is_archive:
        with zipfile.ZipFile(path) as archive:
            _check_sizes(archive, path)
            _check_stored(archive)
    return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and is_archive)


def is_torchscript(path: Path) -> bool:
    """True for archives of torch.jit.save: like torch.load, looks for `constants.pkl` in the archive's folder."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def load_trusted_torchscript(path: Path) -> dict[str, torch.Tensor]:
    """State dict of a TorchScript archive, on the CPU. Compiles the archive's code: only for files of a known checksum."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch advises against TorchScript; OpenAI's files are in it
        return torch.jit.load(path, map_location="cpu").state_dict()


def _check_sizes(archive: zipfile.ZipFile, path: Path) -> None:
    """Raises ValueError when the uncompressed entries of the archive at `path` are larger than the file: they overlap."""
    stored = sum(entry.file_size for entry in archive.infolist() if entry.compress_type == zipfile.ZIP_STORED)
    if stored > path.stat().st_size:
        raise ValueError("its entries are larger than the file")


def _check_stored(archive: zipfile.ZipFile) -> None:
    """Raises ValueError unless the archive is as torch.save writes it: no entry compressed, the first at the file's start.

    Bytes before the first entry would let the file hold two directories, of which zipfile and torch read different ones.
    """
    entries = archive.infolist()
    compressed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
    if compressed:
        raise ValueError(f"its entry {compressed[0]:.80} is compressed, which torch.save does not do")
    if min((entry.header_offset for entry in entries), default=0) != 0:
        raise ValueError("it does not begin with its first entry")
