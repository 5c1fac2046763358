"""Looks up keys in an LMDB without LMDB's own library, which crashes the process when a file is damaged.

The file is an array of pages. Pages 0 and 1 are meta pages; the one of the later transaction says where the root of the B+ tree
is. A branch page holds for each child the smallest key below it (its first key stands for the smallest of all), a leaf page
keys with values, or with the first of the consecutive overflow pages of a large value. Layout: LMDB's mdb.c, data version 1,
as 64-bit little-endian machines write it.

Every number is checked before it is used. Nothing is mapped, cached or locked: any number of processes may read, also those
forked while a file is open, and a file that is cut off meanwhile is an error like any other.
"""

from __future__ import annotations

import os
import struct
import weakref
from dataclasses import dataclass
from pathlib import Path

from pseudo_ris.errors import UserError

PAGE_HEADER = struct.Struct("<QHHHH")  # number, padding, flags, end of the node places, start of the nodes
OVERFLOW_HEADER = struct.Struct("<QHHI")  # number, padding, flags, number of pages
NODE_HEADER = struct.Struct("<HHHH")  # size of the value, low and high half; flags; size of the key
TREE = "IHHQQQQQ"  # page size (of the first tree), flags, depth, four counts, root page
META = struct.Struct("<IIQQ" + 2 * TREE + "QQ")  # magic, version, two more, free list, main tree, one more, transaction
PAGE_NUMBER = struct.Struct("<Q")
MAGIC, VERSION = 0xBEEFC0DE, 1
BRANCH, LEAF, OVERFLOW = 1, 2, 4
PAGE_KINDS = 0x6F  # these three, meta pages and those of databases with several values a key; other flags say what is in memory
VALUE_ELSEWHERE = 1
NO_PAGE = 2**64 - 1
PAGE_SIZES = frozenset(2**bits for bits in range(9, 17))
MAX_DEPTH = 32
DATA_FILE = "data.mdb"


class _Damage(Exception):
    """What does not fit; get() adds the file."""


@dataclass(frozen=True)
class _Tree:
    """The main tree: page of its root, size of a page, and transaction that wrote it."""

    root: int
    page_size: int
    transaction: int


@dataclass(frozen=True)
class _Page:
    """A branch or leaf page. data: its bytes. places: where its nodes begin, in the order of their keys."""

    number: int
    data: bytes
    flags: int
    places: tuple[int, ...]

    def node(self, index: int) -> tuple[int, int, int, bytes]:
        """Low half, high half and flags of a node, and its key."""
        place = self.places[index]
        if place + NODE_HEADER.size > len(self.data):
            raise _Damage(f"page {self.number} has a node outside of it")
        low, high, flags, key_size = NODE_HEADER.unpack_from(self.data, place)
        return low, high, flags, self.data[place + NODE_HEADER.size : place + NODE_HEADER.size + key_size]

    def first_not_below(self, key: bytes, start: int) -> int:
        """Number of the first node from `start` on whose key is `key` or comes after it."""
        end = len(self.places)
        while start < end:
            middle = (start + end) // 2
            if self.node(middle)[3] < key:
                start = middle + 1
            else:
                end = middle
        return start


class LmdbFile:
    """The values of an LMDB's main database by key, read-only. Nothing is opened before the first lookup; it pickles.

    Args:
        path: the file, or the folder that holds `data.mdb`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened: tuple[int, _Tree] | None = None

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path, "_opened": None}

    def get(self, key: bytes) -> bytes | None:
        """Value of a key; None when it has none. Raises UserError when the file cannot be read or is no sound LMDB."""
        try:
            if self._opened is None:
                self._opened = self._open()
            return self._find(key, *self._opened)
        except OSError as error:
            raise UserError(f"{self.path}: {error.strerror or error}; give an LMDB that can be read") from error
        except _Damage as error:
            raise UserError(f"{self.path}: not a sound LMDB ({error}); get the file again") from error

    def _open(self) -> tuple[int, _Tree]:
        path = self.path / DATA_FILE if self.path.is_dir() else self.path
        file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, file)
        first = _meta(os.pread(file, PAGE_HEADER.size + META.size, 0))
        second = os.pread(file, PAGE_HEADER.size + META.size, first.page_size)
        try:
            return file, max(first, _meta(second), key=lambda tree: tree.transaction)
        except _Damage:  # a writer that is killed leaves one of the two whole
            return file, first

    def _find(self, key: bytes, file: int, tree: _Tree) -> bytes | None:
        number = tree.root
        for _ in range(MAX_DEPTH):
            if number == NO_PAGE:
                return None
            page = _read_page(file, tree, number)
            if page.flags == LEAF:
                return _value(file, tree, page, key)
            index = page.first_not_below(key, start=1)
            if index == len(page.places) or page.node(index)[3] != key:
                index -= 1
            low, high, flags, _ = page.node(index)
            number = low | high << 16 | flags << 32
        raise _Damage(f"its tree is deeper than {MAX_DEPTH}")


def _meta(data: bytes) -> _Tree:
    if len(data) < PAGE_HEADER.size + META.size:
        raise _Damage("too short")
    fields = META.unpack_from(data, PAGE_HEADER.size)
    magic, version, page_size, main_flags, root, transaction = (fields[place] for place in (0, 1, 4, 13, 19, 21))
    if magic != MAGIC or version != VERSION:
        raise _Damage("no LMDB of data version 1")
    if page_size not in PAGE_SIZES:
        raise _Damage(f"pages of {page_size} bytes")
    if main_flags:
        raise _Damage("keys in another order, or several values a key")
    return _Tree(root, page_size, transaction)


def _read_page(file: int, tree: _Tree, number: int) -> _Page:
    data = _read(file, number, tree.page_size, tree.page_size)
    own, _, flags, end, start = PAGE_HEADER.unpack_from(data)
    flags &= PAGE_KINDS
    count = (end - PAGE_HEADER.size) // 2
    if own != number or flags not in (BRANCH, LEAF) or not PAGE_HEADER.size <= end <= start <= tree.page_size:
        raise _Damage(f"page {number} is no page of its tree")
    if flags == BRANCH and count < 1:
        raise _Damage(f"page {number} has no children")
    return _Page(number, data, flags, struct.unpack_from(f"<{count}H", data, PAGE_HEADER.size))


def _value(file: int, tree: _Tree, leaf: _Page, key: bytes) -> bytes | None:
    index = leaf.first_not_below(key, start=0)
    if index == len(leaf.places):
        return None
    low, high, flags, found = leaf.node(index)
    if found != key:
        return None
    size, place = low | high << 16, leaf.places[index] + NODE_HEADER.size + len(key)
    if flags not in (0, VALUE_ELSEWHERE) or place + (PAGE_NUMBER.size if flags else size) > tree.page_size:
        raise _Damage(f"page {leaf.number} has a value outside of it, or several of one key")
    if flags:
        return _overflow(file, tree, PAGE_NUMBER.unpack_from(leaf.data, place)[0], size)
    return leaf.data[place : place + size]


def _overflow(file: int, tree: _Tree, number: int, size: int) -> bytes:
    data = _read(file, number, tree.page_size, OVERFLOW_HEADER.size + size)
    own, _, flags, pages = OVERFLOW_HEADER.unpack_from(data)
    if own != number or flags & PAGE_KINDS != OVERFLOW or len(data) > pages * tree.page_size:
        raise _Damage(f"page {number} is not where a large value begins")
    return data[OVERFLOW_HEADER.size :]


def _read(file: int, number: int, page_size: int, size: int) -> bytes:
    """`size` bytes from the start of a page on. The file's end is asked for first: reading allocates what is asked for."""
    if number * page_size + size > os.fstat(file).st_size:
        raise _Damage(f"page {number} is not there")
    data = os.pread(file, size, number * page_size)
    if len(data) < size:
        raise _Damage(f"page {number} was cut off")
    return data
