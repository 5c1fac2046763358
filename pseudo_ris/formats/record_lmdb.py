"""Reads and writes the LMDBs of ETRIS, Pseudo-RIS and CRIS: one record per object, with image and mask files.

Keys are ASCII numbers `0`, `1`, ..., plus `__keys__` (the list of them) and `__len__` (their number). Values are serialized
Python objects; the first bytes tell which of SERIALIZATIONS was used.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import lmdb

from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.formats.legacy_arrow import LegacyArrowError, deserialize, serialize
from pseudo_ris.io.lmdb_file import LmdbFile
from pseudo_ris.io.safe_pickle import load_plain_pickle
from pseudo_ris.pairs.pair_set import LARGEST_NUMBER

KEYS, LENGTH = b"__keys__", b"__len__"
LOOSE_IMAGE = "__image__"
FIRST_MAP = 1 << 20
PICKLE_START = pickle.PROTO

Value = TypeVar("Value")

SERIALIZATIONS: dict[str, Callable[[Any], bytes]] = {
    "pyarrow": serialize,
    "pickle": lambda value: pickle.dumps(value, 5),
}
"""pyarrow: for the loaders of ETRIS, Pseudo-RIS and CRIS with pyarrow 10 or 11. pickle: what CRIS writes today."""


@dataclass(frozen=True)
class LmdbRecord:
    """One object of an image.

    img, mask: encoded files. cat: 0-79. seg_id: id of the mask. img_id: only in Pseudo-RIS's records. further: fields that the
    original tools do not write.
    """

    img: bytes = field(repr=False)
    mask: bytes = field(repr=False)
    cat: int
    seg_id: int
    img_name: str
    sents: tuple[str, ...]
    img_id: int | None = None
    further: dict[str, Any] = field(default_factory=dict)

    def as_fields(self) -> dict[str, Any]:
        """Returns the stored form: the original tools' fields in their order, then the further fields."""
        fields: dict[str, Any] = {
            "img": self.img,
            "mask": self.mask,
            "cat": self.cat,
            "seg_id": self.seg_id,
            "img_name": self.img_name,
        }
        if self.img_id is not None:
            fields["img_id"] = self.img_id
        return {**fields, "num_sents": len(self.sents), "sents": list(self.sents), **self.further}


class RecordLmdb:
    """Reads records by number. Every read can raise a UserError that names the file, key and field.

    Opens the file on the first read, takes no locks, and can be passed to other processes by fork or pickle.

    Args:
        path: the LMDB, a file or a folder with `data.mdb`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = LmdbFile(path)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_file": self._file}

    @cached_property
    def keys(self) -> list[bytes]:
        """The keys of the records, in order."""
        length = self._value(LENGTH)
        if type(length) is not int or length < 0:
            raise UserError(f"{self.path}, {LENGTH.decode()}: is not a number of records; get the file again")
        keys = self._value(KEYS)
        if not isinstance(keys, list) or not all(isinstance(key, bytes) for key in keys) or len(keys) != length:
            raise UserError(f"{self.path}, {KEYS.decode()}: is not a list of {LENGTH.decode()} keys; get the file again")
        return keys

    @property
    def serialization(self) -> str:
        """The serialization of the values, a key of SERIALIZATIONS."""
        return "pickle" if (self._file.get(LENGTH) or b"").startswith(PICKLE_START) else "pyarrow"

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, number: int) -> LmdbRecord:
        key = self.keys[number]
        return _record(self._value(key), self._place(key))

    def __iter__(self) -> Iterator[LmdbRecord]:
        return (self[number] for number in range(len(self)))

    def image_bytes(self, number: int) -> bytes:
        """Returns the image file of a record, for ImageRecord.read and PairImage.read. Raises BadInputError."""
        try:
            return self[number].img
        except UserError as error:
            raise BadInputError(str(error)) from error

    def loose_image_bytes(self, name: Any) -> bytes:
        """Returns an image file stored with RecordWriter.add_image. Raises BadInputError."""
        try:
            data = self._value(name.encode()) if isinstance(name, str) and name.startswith(LOOSE_IMAGE) else None
        except (UserError, UnicodeEncodeError) as error:
            raise BadInputError(str(error)) from error
        if not isinstance(data, bytes):
            raise BadInputError(f"{self.path}: has no such image; get the file again")
        return data

    def _place(self, key: bytes) -> str:
        return f"{self.path}, key {ascii(key)[2:-1][:40]}"

    def _value(self, key: bytes) -> Any:
        """Returns the Python object stored under a key."""
        data = self._file.get(key)
        if data is None:
            raise UserError(f"{self._place(key)}: is missing; give an LMDB of ETRIS, Pseudo-RIS or CRIS")
        if data.startswith(PICKLE_START):
            return load_plain_pickle(data, self._place(key))
        try:
            return deserialize(data)
        except LegacyArrowError as error:
            raise UserError(f"{self._place(key)}: neither a pickle nor pyarrow's old layout ({error})") from error


def _record(fields: Any, place: str) -> LmdbRecord:
    if not isinstance(fields, dict):
        raise UserError(f"{place}: is {type(fields).__name__}, not a dict with the fields of a record")
    rest = dict(fields)

    def take(name: str, kind: type[Value]) -> Value:
        value = rest.pop(name, None)
        if type(value) is not kind or (kind is int and abs(value) > LARGEST_NUMBER):
            raise UserError(f"{place}: {name} is missing or not {kind.__name__}")
        return value

    sentences = take("sents", list)
    if not all(isinstance(sentence, str) for sentence in sentences) or take("num_sents", int) != len(sentences):
        raise UserError(f"{place}: sents is not a list of num_sents texts")
    record = LmdbRecord(
        img=take("img", bytes),
        mask=take("mask", bytes),
        cat=take("cat", int),
        seg_id=take("seg_id", int),
        img_name=take("img_name", str),
        sents=tuple(sentences),
        img_id=take("img_id", int) if rest.get("img_id") is not None else None,
    )
    record.further.update(rest)
    return record


class RecordWriter:
    """Adds records to a new LMDB file and grows its memory map as needed."""

    def __init__(self, environment: lmdb.Environment, serialization: str) -> None:
        self._environment = environment
        self._serialize = SERIALIZATIONS[serialization]
        self._count = 0
        self._loose = 0

    def add(self, record: LmdbRecord) -> None:
        """Appends a record. Raises UserError when the serialization cannot store one of its values."""
        self._put(str(self._count).encode(), record.as_fields())
        self._count += 1

    def add_image(self, data: bytes) -> str:
        """Stores an image file without objects under a separate key. Returns the name for `RecordLmdb.loose_image_bytes`."""
        name = f"{LOOSE_IMAGE}{self._loose}"
        self._put(name.encode(), data)
        self._loose += 1
        return name

    def finish(self) -> None:
        """Writes the list of keys and their number."""
        self._put(KEYS, [str(number).encode() for number in range(self._count)])
        self._put(LENGTH, self._count)

    def _put(self, key: bytes, content: Any) -> None:
        try:
            value = self._serialize(content)
        except LegacyArrowError as error:
            raise UserError(f"record {key.decode()}: {error}; write the LMDB with pickle") from error
        while not self._fits(key, value):
            self._environment.set_mapsize(2 * self._environment.info()["map_size"])

    def _fits(self, key: bytes, value: bytes) -> bool:
        try:
            with self._environment.begin(write=True) as transaction:
                transaction.put(key, value)
        except lmdb.MapFullError:
            return False
        return True


@contextmanager
def writing_records(path: Path, serialization: str = "pyarrow") -> Iterator[RecordWriter]:
    """Context manager that yields a writer of the new LMDB file `path`; the file is complete when the block ends.

    serialization: a key of SERIALIZATIONS. Raises UserError when the file cannot be written.
    """
    try:
        with lmdb.open(str(path), FIRST_MAP, subdir=False, lock=False, sync=False, metasync=False) as environment:
            writer = RecordWriter(environment, serialization)
            yield writer
            writer.finish()
            environment.sync(True)
    except lmdb.Error as error:
        raise UserError(f"cannot write {path}: {error}; free disk space or choose another path, then rerun") from error
