"""Downloads published weights and verifies them; a file appears only whole and verified.

An unfinished file waits as `.NAME.part` with `.NAME.part.json`, which says where its bytes are from, and is gone on with.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from pseudo_ris.checkpoints.manifest import (
    CHECKSUMS,
    WeightsFile,
    held_checksum,
    local_path,
    read_checksums,
)
from pseudo_ris.checkpoints.transfer import Part, Patience, Source, SourceFailed, fill, hub_page, sources_of
from pseudo_ris.errors import UserError
from pseudo_ris.io.files import BLOCK, file_digest, temporary_name, write_atomic, writing


class _WrongContent(Exception):
    """A file is whole but not the published one; the text says in what."""


def fetch(entry: WeightsFile, folder: Path, source_folder: Path | None = None, patience: Patience | None = None) -> Path:
    """The file of `entry` in `folder`, verified: kept when it is there, else copied from `source_folder` or downloaded.

    An unpublished sha256 is recorded in `folder` when the file is first seen, and held to from then on.
    Raises UserError that names the file, what is wrong (for a download: with each source) and the remedy.
    """
    target = local_path(entry, folder)
    if target.exists() and held_checksum(entry, folder):  # needs no lock, so a read-only folder will do
        verify(entry, folder)
        return target
    with _alone_in(folder):
        if target.exists():
            sha256 = verify(entry, folder)
        elif source_folder is not None:
            sha256 = _copy(entry, source_folder / entry.file, target)
        else:
            sha256 = _download(entry, target, patience or Patience())
        if held_checksum(entry, folder) is None:
            _record(target, sha256)
    return target


def _download(entry: WeightsFile, target: Path, patience: Patience) -> str:
    """Fetches from the first source that gives the right file; its sha256. Raises UserError with every source's reason."""
    part = Part(target)
    failures = []
    try:
        for source in _sources(entry, part, patience):
            _say(f"{entry.name}: downloading {source.url}")
            try:
                fill(part, source, patience, entry.name)
                sha256 = _verify(part.path, entry, target.parent, source)
            except (SourceFailed, _WrongContent) as failure:
                if isinstance(failure, _WrongContent):
                    part.drop()
                failures.append(f"{source.url}: {failure}")
                continue
            part.move_to(target)
            return sha256
    except SourceFailed as failure:
        failures.append(f"{_origin(entry)}: {failure}")
    raise UserError(
        f"{entry.name}: {entry.file} could not be downloaded ({'; '.join(failures)}); run the same command again later, "
        f"take it from a folder with --from DIR, or put it at {target} by hand"
    )


def _sources(entry: WeightsFile, part: Part, patience: Patience) -> list[Source]:
    """Where the file is to be had, beginning with the source of the bytes at hand."""
    return sorted(sources_of(entry, patience), key=lambda source: source.url != part.origin().url)


def _copy(entry: WeightsFile, source: Path, target: Path) -> str:
    """Copies a file that the user has, verified like a download; its sha256."""
    if not source.is_file():
        raise UserError(f"{entry.name}: {source} does not exist; get it from {_origin(entry)} and name it {entry.file}")
    temporary = temporary_name(target)
    _say(f"{entry.name}: copying {source}")
    try:
        with _reading(source), source.open("rb") as reader, writing(target), temporary.open("wb") as writer:
            shutil.copyfileobj(reader, writer, BLOCK)
            writer.flush()
            os.fsync(writer.fileno())
        sha256 = _verify(temporary, entry, target.parent)
        with writing(target):
            temporary.replace(target)
    except _WrongContent as wrong:
        raise UserError(f"{entry.name}: {source} {wrong}; get it again from {_origin(entry)}") from wrong
    finally:
        temporary.unlink(missing_ok=True)
    return sha256


def verify(entry: WeightsFile, folder: Path) -> str:
    """Sha256 of the file of `entry` in `folder`. Raises UserError when its content is wrong; the file is left alone."""
    target = local_path(entry, folder)
    _say(f"{entry.name}: {target} is there, checking it")
    try:
        return _verify(target, entry, target.parent)
    except _WrongContent as wrong:
        raise UserError(f"{entry.name}: {target} {wrong}; move it away and run the same command again") from wrong


def _verify(path: Path, entry: WeightsFile, folder: Path, source: Source | None = None) -> str:
    """Sha256 of the file at `path`. Raises _WrongContent when it does not have the size and the checksum known of it.

    source: where it was downloaded from, which may have announced what the manifest does not know.
    """
    size = source.size if source else entry.size
    with _reading(path):
        found = path.stat().st_size
        if size is not None and found != size:
            raise _WrongContent(f"has {found} bytes instead of {size}")
        sha256 = file_digest(path)
        if entry.md5 and not entry.sha256 and (md5 := file_digest(path, "md5")) != entry.md5:
            raise _WrongContent(f"has the wrong content (md5 {md5} instead of {entry.md5})")
    recorded = None if entry.sha256 else held_checksum(entry, folder)
    if recorded not in (None, sha256):
        raise _WrongContent(
            f"has another sha256 ({sha256}) than was recorded for {entry.file} at its first download ({recorded}); if the new "
            f"content is right, remove the record from {folder / CHECKSUMS}"
        )
    published = entry.sha256 or (source.sha256 if source else None)
    if published not in (None, sha256):
        raise _WrongContent(f"has the wrong content (sha256 {sha256} instead of {published})")
    return sha256


def _record(target: Path, sha256: str) -> None:
    """Notes a checksum that nobody published, for held_checksum."""
    records = read_checksums(target.parent) | {target.name: sha256}
    write_atomic(target.parent / CHECKSUMS, json.dumps(records, indent=1, sort_keys=True) + "\n")
    _say(f"{target.name}: sha256 {sha256} is not published; recorded in {target.parent / CHECKSUMS} and held to from now on")


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keeps other processes from fetching into `folder`; waits for one that does. A killed process holds nothing."""
    with contextlib.ExitStack() as stack:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context((folder / ".lock").open("w"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _say(f"waiting for another process that fetches into {folder}")
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); make it readable or move it away") from error


def _origin(entry: WeightsFile) -> str:
    return hub_page(entry.hub) if entry.hub else entry.urls[0]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
