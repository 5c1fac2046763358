"""Stamps of a run's images from the time when their results were made: unchanged images need not be read again.

A stamp is a hash of an image's size and time, its masks' key and the settings. The stamps of a folder of shards are in its
`index.jsonl`, a line a shard. That file is a cache: lost, cut short or out of date, it costs a run that reads all images.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from pseudo_ris.io.files import digest, write_atomic, writing
from pseudo_ris.storage.compaction.rows import IdsAndKeys

INDEX = "index.jsonl"
STAMP_BYTES = 12
NO_STAMP = bytes(STAMP_BYTES)


def stamp_of(*parts: object) -> bytes:
    """Returns the stamp: a hash of the parts."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=STAMP_BYTES).digest()


class Stamps:
    """One stamp per image; NO_STAMP where it is unknown."""

    def __init__(self, count: int) -> None:
        self._data = bytearray(count * STAMP_BYTES)

    def __getitem__(self, place: int) -> bytes:
        return bytes(self._data[place * STAMP_BYTES : (place + 1) * STAMP_BYTES])

    def __setitem__(self, place: int, stamp: bytes) -> None:
        self._data[place * STAMP_BYTES : (place + 1) * STAMP_BYTES] = stamp


class StampIndex:
    """The stamps of a folder of shards: one line per shard, appended when the shard is written."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / INDEX
        self._lines: dict[str, str] = {}
        self._is_whole = True
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
                self._take(line)

    def stamps_of(self, shard: str, rows: IdsAndKeys) -> list[bytes]:
        """Returns the stamps of a shard's rows; NO_STAMP for all unless they are known for exactly these rows."""
        entry = _parse(self._lines.get(shard, ""))
        if entry is None or entry["rows"] != digest(rows):
            return [NO_STAMP] * len(rows)
        data = base64.b64decode(entry["stamps"])
        stamps = [data[start : start + STAMP_BYTES] for start in range(0, len(data), STAMP_BYTES)]
        return stamps if len(stamps) == len(rows) else [NO_STAMP] * len(rows)

    def add(self, shard: str, rows: IdsAndKeys, stamps: Sequence[bytes]) -> None:
        """Stores the stamps of a shard's rows, unless they are known. Raises UserError when they cannot be written."""
        entry = {"shard": shard, "rows": digest(rows), "stamps": base64.b64encode(b"".join(stamps)).decode()}
        line = json.dumps(entry) + "\n"
        if self._lines.get(shard) == line:
            return
        if not self._is_whole:
            self._write()
        self._lines[shard] = line
        with writing(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(line)

    def close(self, shards: Sequence[str]) -> None:
        """Rewrites the index with one line for each of these shards, in their order. Raises UserError."""
        self._lines = {shard: self._lines[shard] for shard in shards if shard in self._lines}
        self._write()

    def _write(self) -> None:
        text = "".join(self._lines.values())
        self._is_whole = True
        if not text:
            with writing(self.path):
                self.path.unlink(missing_ok=True)
        elif not self.path.exists() or self.path.read_bytes() != text.encode():
            write_atomic(self.path, text)

    def _take(self, line: str) -> None:
        entry = _parse(line)
        if entry is None:
            self._is_whole = False
        else:
            self._lines[entry["shard"]] = line


def _parse(line: str) -> dict[str, str] | None:
    """Parses a line of the index; returns None if it is incomplete."""
    try:
        entry = json.loads(line)
        texts = [entry[name] for name in ("shard", "rows", "stamps")]
        base64.b64decode(entry["stamps"], validate=True)
    except (ValueError, KeyError, TypeError):
        return None
    return entry if line.endswith("\n") and all(isinstance(text, str) for text in texts) else None
