"""Downloads one file over HTTP: resumes an interrupted transfer, retries, and never accepts a truncated body."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar
from urllib.parse import quote

import requests
from requests.structures import CaseInsensitiveDict
from urllib3.exceptions import ReadTimeoutError

from pseudo_ris.checkpoints.manifest import HubFile, WeightsFile
from pseudo_ris.io.files import write_atomic, writing
from pseudo_ris.io.terminal import ProgressBar

CHUNK = 1 << 14  # what a broken connection may lose
CONNECT_SECONDS = 15.0
WORTH_A_RETRY = (408, 416, 429)

Result = TypeVar("Result")


class SourceFailed(Exception):
    """This source does not give the file; the text says why."""


class _Interrupted(Exception):
    """This attempt failed, the next one may not; the text says why."""


@dataclass(frozen=True)
class Patience:
    """stall_seconds: how long a server may send nothing at all; slow but steady is fine. attempts: failures in a row without
    a new byte after which a source is given up. pause_seconds: wait after a failure, doubled with each one without a new byte.
    """

    stall_seconds: float = 60.0
    attempts: int = 4
    pause_seconds: float = 1.0


@dataclass(frozen=True)
class Source:
    """Where a file is to be had. size (bytes) and sha256 (hex) as far as its publisher gives them."""

    url: str
    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Origin:
    """Where the bytes of an unfinished file are from. validator: value of If-Range that asks for the same content."""

    url: str | None = None
    validator: str | None = None
    total: int | None = None


class Part:
    """An unfinished file, `.NAME.part` beside its target, and its origin in `.NAME.part.json`."""

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(f".{target.name}.part")
        self._origin_path = target.with_name(f".{target.name}.part.json")

    def size(self) -> int:
        """Bytes at hand."""
        return self.path.stat().st_size if self.path.exists() else 0

    def origin(self) -> Origin:
        """Where they are from; empty when that is not known."""
        try:
            return Origin(**json.loads(self._origin_path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return Origin()

    def restart(self, origin: Origin) -> None:
        """Deletes the bytes before it records the new origin, so that bytes of one origin are never attributed to another."""
        with writing(self.path):
            self.path.write_bytes(b"")
        write_atomic(self._origin_path, json.dumps(asdict(origin)))

    def drop(self) -> None:
        """Removes the file and its origin."""
        with writing(self.path):
            self.path.unlink(missing_ok=True)
            self._origin_path.unlink(missing_ok=True)

    def move_to(self, target: Path) -> None:
        """Renames the finished file once it is on the disk."""
        with writing(target):
            with self.path.open("rb") as file:
                os.fsync(file.fileno())
            self.path.replace(target)
            self._origin_path.unlink(missing_ok=True)


def sources_of(entry: WeightsFile, patience: Patience) -> list[Source]:
    """Sources of an entry, in its order. Asks the Hugging Face hub where an entry leaves the name to it.

    Raises SourceFailed when the hub does not answer or has no such file.
    """
    if entry.hub is None:
        return [Source(url, entry.size, entry.sha256) for url in entry.urls]
    return [_persistently(lambda: _ask_hub(entry, entry.hub, patience), lambda: 0, patience)]


def hub_page(hub: HubFile) -> str:
    """Address of a hub repository, at $HF_ENDPOINT where that is set (a mirror)."""
    return f"{os.environ.get('HF_ENDPOINT') or 'https://huggingface.co'}/{hub.repo}"


def fill(part: Part, source: Source, patience: Patience, label: str) -> None:
    """Brings all bytes of `source` into `part`, going on from those it holds where they are sure to be of the same content.

    label: name beside the progress bar. Raises SourceFailed; what has come by then stays. Raises UserError when the disk is
    full or cannot be written to.
    """
    _persistently(lambda: _transfer(part, source, patience, label), part.size, patience)


def _persistently(attempt: Callable[[], Result], reached: Callable[[], int], patience: Patience) -> Result:
    """Repeats an attempt that is interrupted, as long as `reached` grows or patience lasts."""
    furthest = idle = 0
    while True:
        try:
            return attempt()
        except _Interrupted as interruption:
            idle = 0 if reached() > furthest else idle + 1
            furthest = max(furthest, reached())
            if idle == patience.attempts:
                raise SourceFailed(f"{interruption}, {idle} times without a new byte") from interruption
            time.sleep(patience.pause_seconds * 2**idle)


def _transfer(part: Part, source: Source, patience: Patience, label: str) -> None:
    """One request for what is missing, written to `part`."""
    origin = part.origin()
    start = part.size() if origin.url == source.url and origin.validator else 0
    if start and start == origin.total:
        return
    headers = {"Accept-Encoding": "identity"}  # so that lengths are lengths of the file
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": str(origin.validator)}
    with _get(source.url, patience, headers) as response:
        if start and response.status_code == requests.codes.partial:
            _check_continuation(response, start, origin, part)
        else:
            if start and response.status_code == requests.codes.requested_range_not_satisfiable:
                part.drop()
            origin = _new_origin(response, source)
            part.restart(origin)
        _write_body(response, part, origin, patience, label)
    if part.size() != origin.total:
        raise _Interrupted(f"broke off after {part.size()} of {origin.total} bytes")


def _get(url: str, patience: Patience, headers: dict[str, str] | None = None) -> requests.Response:
    timeout = (min(CONNECT_SECONDS, patience.stall_seconds), patience.stall_seconds)
    try:
        return requests.get(url, headers=headers, stream=True, timeout=timeout)
    except requests.RequestException as error:
        _interrupt(error, patience)


def _check_status(response: requests.Response) -> None:
    """Lets only a whole answer pass."""
    status = response.status_code
    if status in WORTH_A_RETRY or status >= requests.codes.server_error:
        raise _Interrupted(f"answers {status} {response.reason}")
    if status != requests.codes.ok:
        raise SourceFailed(f"answers {status} {response.reason}")


def _new_origin(response: requests.Response, source: Source) -> Origin:
    """Origin of an answer that gives the file from its beginning; refuses any other answer."""
    _check_status(response)
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise SourceFailed("answers with a web page instead of the file")
    length = response.headers.get("Content-Length", "")
    total = int(length) if length.isdecimal() else source.size
    if total is None:
        raise SourceFailed("does not say how long the file is")
    if source.size not in (None, total):
        raise SourceFailed(f"has a file of {total} bytes instead of {source.size}")
    return Origin(source.url, _validator(response.headers), total)


def _check_continuation(response: requests.Response, start: int, origin: Origin, part: Part) -> None:
    """Makes sure that a partial answer begins where the part ends and is of the same content; else the part is dropped."""
    expected = f"bytes {start}-{origin.total - 1}/{origin.total}" if origin.total else None
    given = response.headers.get("Content-Range", "")
    if given != expected or _validator(response.headers) not in (None, origin.validator):
        part.drop()
        raise _Interrupted(f"goes on with another range or another file than asked for ({given or 'no Content-Range'})")


def _write_body(response: requests.Response, part: Part, origin: Origin, patience: Patience, label: str) -> None:
    bar = ProgressBar(label, origin.total, done=part.size(), unit="B")
    with bar, writing(part.path), part.path.open("ab") as file:
        for chunk in _chunks(response, patience):
            file.write(chunk)
            bar.update(len(chunk))


def _chunks(response: requests.Response, patience: Patience) -> Iterator[bytes]:
    """The body in pieces. A requests error is an OSError too, so it is turned before it looks like one of the disk's."""
    try:
        yield from response.iter_content(CHUNK)
    except requests.RequestException as error:
        _interrupt(error, patience)


def _interrupt(error: requests.RequestException, patience: Patience) -> NoReturn:
    """Raises _Interrupted with a short reason: requests' own texts nest several errors."""
    inner = error.args[0] if error.args else None
    if isinstance(error, requests.Timeout) or isinstance(inner, ReadTimeoutError):
        raise _Interrupted(f"sends nothing for {patience.stall_seconds:g} s") from error
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        raise _Interrupted("breaks off in the middle") from error
    reason = re.search(r"\[Errno -?\d+\] ([\w ,]+)", str(error))
    raise _Interrupted(f"connection failed ({reason[1] if reason else type(error).__name__})") from error


def _validator(headers: CaseInsensitiveDict[str]) -> str | None:
    """What If-Range accepts (RFC 9110, 13.1.5): a strong ETag, else the date of the last change."""
    tag = headers.get("ETag", "W/")
    return headers.get("Last-Modified") if tag.startswith("W/") else tag


def _ask_hub(entry: WeightsFile, hub: HubFile, patience: Patience) -> Source:
    """The file of a hub repository that fits, with the size and sha256 that the hub gives."""
    page = hub_page(hub)
    endpoint = page.removesuffix(f"/{hub.repo}")
    with _get(f"{endpoint}/api/models/{hub.repo}?blobs=true", patience) as response:
        _check_status(response)
        listing = b"".join(_chunks(response, patience))
    try:
        files = {file["rfilename"]: file for file in json.loads(listing)["siblings"]}
    except (ValueError, KeyError, TypeError) as error:
        raise SourceFailed("does not list its files as the hub does") from error
    name = _pick(list(files), hub)
    large: dict[str, Any] = files[name].get("lfs") or {}
    url = f"{page}/resolve/main/{quote(name)}"
    return Source(url, entry.size or files[name].get("size"), entry.sha256 or large.get("sha256"))


def _pick(names: list[str], hub: HubFile) -> str:
    for pattern in hub.patterns:
        fitting = fnmatch.filter(names, pattern)
        if len(fitting) == 1:
            return fitting[0]
    raise SourceFailed(f"none of {', '.join(hub.patterns)} fits exactly one of its files: {', '.join(names)}")
