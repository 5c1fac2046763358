"""Writing files so that a reader never sees half of one, and hashing what a result depends on."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pseudo_ris.errors import UserError

TEMPORARY_SUFFIX = ".tmp"
BLOCK = 1 << 20
REPLACE_ATTEMPTS = 10
MARK_LETTERS = 8


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Turns an OSError while `target` is written into a UserError that says what to do; finished files are not touched."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"cannot write {target}: {reason}; free or choose another place, then run the same command again "
            "(what is finished is kept and reused)"
        ) from error


def temporary_name(target: Path) -> Path:
    """Name beside `target` under which it is written before it is renamed."""
    return target.with_name(f".{target.name}{TEMPORARY_SUFFIX}")


def _own_temporary_name(target: Path) -> Path:
    """The same, of this process alone: a worker that was taken for dead may still be at work on another machine."""
    mark = digest(socket.gethostname(), os.getpid())[:MARK_LETTERS]
    return target.with_name(f".{target.name}.{mark}{TEMPORARY_SUFFIX}")


def write_atomic(target: Path, content: bytes | str) -> None:
    """Writes `content` (text as UTF-8) under a temporary name in the same folder, then renames. Raises UserError.

    When writing fails, nothing is left behind. What a killed process leaves, `prepare_folder` and `write_output` remove.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = _own_temporary_name(target)
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(data)
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def write_output(target: Path, content: bytes | str) -> None:
    """As `write_atomic`, for the only file that a command writes: also removes what a killed run of the command left."""
    leftover = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{{MARK_LETTERS}}}{re.escape(TEMPORARY_SUFFIX)}")
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        for path in target.parent.iterdir():
            if leftover.fullmatch(path.name):
                path.unlink(missing_ok=True)
    write_atomic(target, content)


def require_file_place(target: Path, option: str) -> None:
    """Raises UserError when `target`, given by the option, is a folder and so cannot be a file."""
    if target.is_dir():
        raise UserError(f"{option} {target}: is a folder; give the name of a file")


def replace_folder(target: Path, files: dict[str, bytes]) -> None:
    """Makes `target` a folder of exactly `files` (name -> content); it appears whole. Raises UserError.

    Where another process makes the same folder at the same time, one of the two stays.
    """
    temporary = _own_temporary_name(target)
    with writing(target):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for name, data in files.items():
            (temporary / name).write_bytes(data)
        for left in reversed(range(REPLACE_ATTEMPTS)):
            if target.exists():
                shutil.rmtree(target, ignore_errors=left > 0)
            try:
                temporary.rename(target)
                break
            except OSError as error:
                if left == 0 or error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise


def prepare_folder(folder: Path, clear: bool = True) -> None:
    """Creates `folder`, tries that it can be written to and clears what a killed run left half-written in it.

    clear: False where another run may be writing.
    Raises UserError when it cannot be created or written to.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder, prefix=".", suffix=TEMPORARY_SUFFIX).close()
        leftovers = folder.glob(f".*{TEMPORARY_SUFFIX}") if clear else ()
        for leftover in leftovers:
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def is_case_sensitive(folder: Path) -> bool:
    """Whether the file system tells `Dog` from `dog`, judged by a file that is in the folder; True where there is none."""
    try:
        for path in folder.iterdir():
            if (other := path.with_name(path.name.swapcase())) != path:
                return not (other.exists() and other.samefile(path))
    except OSError:  # the folder is missing, or the file is a lock that has just been removed
        pass
    return True


def digest(*parts: Any) -> str:
    """Sha256 (hex) of bytes, dataclasses and JSON-able values, in order."""
    state = hashlib.sha256()
    for part in parts:
        if dataclasses.is_dataclass(part) and not isinstance(part, type):
            part = dataclasses.asdict(part)
        data = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True).encode()
        state.update(len(data).to_bytes(8, "little"))
        state.update(data)
    return state.hexdigest()


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """Hex digest of a file's content, read a block at a time."""
    state = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            state.update(block)
    return state.hexdigest()
