"""Reads and writes the format of `pyarrow.serialize` (pyarrow 10 and 11), which pyarrow removed in version 12.

A value is four int32 (the numbers of tensors, sparse tensors, arrays and buffers that follow; all 0 here), an Arrow IPC stream
with one record batch of one row and one column `list`, and zero padding to a multiple of 64 bytes. The column is a dense union
with a child for None and one child per further kind of value, in the order of first occurrence. The name of a child is the
number of its kind (`Kind`). Lists, tuples and sets are lists of such unions; dicts are lists of structs of two unions, `keys`
and `vals`.

Current pyarrow writes these streams byte for byte as pyarrow 11 did. The reader checks the schema, the structure and every
offset before it creates values, so that malicious input can neither run long nor allocate more memory than its own size
warrants.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from itertools import pairwise
from typing import Any

import pyarrow as pa

HEADER = struct.Struct("<4i")
ALIGNMENT = 64
MAX_DEPTH = 31
"""Maximum nesting of lists: pyarrow 11 refused to write deeper ones, and current pyarrow does too."""


class LegacyArrowError(ValueError):
    """The bytes are not in this format, or a value cannot be stored in it."""


class Kind(IntEnum):
    """pyarrow 11's numbers for the kinds of values."""

    NONE = 0
    BOOL = 1
    INT = 2
    OLD_INT = 3
    BYTES = 4
    STR = 5
    FLOAT32 = 7
    FLOAT = 8
    LIST = 10
    DICT = 11
    TUPLE = 12
    SET = 13


SCALARS: dict[Kind, pa.DataType] = {
    Kind.NONE: pa.null(),
    Kind.BOOL: pa.bool_(),
    Kind.INT: pa.int64(),
    Kind.OLD_INT: pa.int64(),
    Kind.BYTES: pa.binary(),
    Kind.STR: pa.string(),
    Kind.FLOAT32: pa.float32(),
    Kind.FLOAT: pa.float64(),
}
# bool before int, of which it is a subclass
KINDS_BY_TYPE: dict[type, Kind] = {
    type(None): Kind.NONE,
    bool: Kind.BOOL,
    int: Kind.INT,
    float: Kind.FLOAT,
    bytes: Kind.BYTES,
    str: Kind.STR,
    list: Kind.LIST,
    tuple: Kind.TUPLE,
    set: Kind.SET,
    dict: Kind.DICT,
}
KINDS_BY_NAME = {str(int(kind)): kind for kind in Kind}
SEQUENCES: dict[Kind, type] = {Kind.LIST: list, Kind.TUPLE: tuple, Kind.SET: set}
READABLE = ", ".join(kind.__name__ for kind in KINDS_BY_TYPE)


def serialize(value: Any) -> bytes:
    """Returns the bytes of `pyarrow.serialize(value).to_buffer()` in pyarrow 11.

    value: None, bool, 64-bit int, float, str, bytes, and lists, tuples, sets and dicts of these.
    Raises LegacyArrowError for other types and for nesting deeper than MAX_DEPTH.
    """
    column = _Column()
    try:
        column.append(value, 0)
        array = column.array()
        batch = pa.record_batch([array], schema=pa.schema([pa.field("list", array.type)]))
        stream = pa.BufferOutputStream()
        with pa.ipc.new_stream(stream, batch.schema) as writer:
            writer.write_batch(batch)
    except (pa.ArrowException, ValueError, OverflowError) as error:
        raise LegacyArrowError(_reason(error)) from error
    data = HEADER.pack(0, 0, 0, 0) + stream.getvalue().to_pybytes()
    return data + bytes(-len(data) % ALIGNMENT)


def deserialize(data: bytes) -> Any:
    """Returns the value that pyarrow 10 or 11 serialized to `data`. Raises LegacyArrowError."""
    try:
        return _values(_read_column(data))[0]
    except LegacyArrowError:
        raise
    except (pa.ArrowException, OSError, ValueError, TypeError, IndexError, struct.error) as error:
        raise LegacyArrowError(f"not pyarrow's legacy format ({_reason(error)})") from error


class _Column:
    """A union under construction. children: the values of each kind, as a list or as nested columns."""

    def __init__(self) -> None:
        self.ordinals: list[int] = []
        self.offsets: list[int] = []
        self.children: dict[Kind, list[Any] | _Nested] = {Kind.NONE: []}

    def append(self, value: Any, depth: int) -> None:
        kind = KINDS_BY_TYPE.get(type(value))
        if kind is None:
            raise LegacyArrowError(f"pyarrow's legacy format cannot store {type(value).__name__}; it stores {READABLE}")
        if depth >= MAX_DEPTH and kind not in SCALARS:
            raise LegacyArrowError(f"nested deeper than {MAX_DEPTH}, the limit of pyarrow's legacy format")
        if kind not in self.children:
            self.children[kind] = [] if kind in SCALARS else _Nested(kind)
        child = self.children[kind]
        self.ordinals.append(list(self.children).index(kind))
        self.offsets.append(len(child))
        child.append(value) if isinstance(child, list) else child.append(value, depth + 1)

    def array(self) -> pa.UnionArray:
        kinds = self.children.items()
        children = [pa.array(child, SCALARS[kind]) if isinstance(child, list) else child.array() for kind, child in kinds]
        ordinals, offsets = pa.array(self.ordinals, pa.int8()), pa.array(self.offsets, pa.int32())
        return pa.UnionArray.from_dense(ordinals, offsets, children, [str(int(kind)) for kind in self.children])


class _Nested:
    """Lists, tuples, sets or dicts under construction. ends: where each one ends in the columns of its items."""

    def __init__(self, kind: Kind) -> None:
        self.ends = [0]
        self.columns = {"keys": _Column(), "vals": _Column()} if kind is Kind.DICT else {"item": _Column()}

    def __len__(self) -> int:
        return len(self.ends) - 1

    def append(self, value: list | tuple | set | dict, depth: int) -> None:
        for item in value.items() if isinstance(value, dict) else ((item,) for item in value):
            for column, part in zip(self.columns.values(), item, strict=True):
                column.append(part, depth)
        self.ends.append(self.ends[-1] + len(value))

    def array(self) -> pa.ListArray:
        arrays = [column.array() for column in self.columns.values()]
        items = arrays[0] if len(arrays) == 1 else pa.StructArray.from_arrays(arrays, list(self.columns))
        return pa.ListArray.from_arrays(pa.array(self.ends, pa.int32()), items)


def _read_column(data: bytes) -> pa.UnionArray:
    """Returns the union in `data`, one row, after checking its type and buffers."""
    if len(data) < HEADER.size or any(HEADER.unpack_from(data)):
        raise LegacyArrowError("not pyarrow's legacy format, or has arrays, tensors or buffers, which are not supported")
    messages = pa.ipc.MessageReader.open_stream(pa.py_buffer(data)[HEADER.size :])
    schema, batch = _next_message(messages, "schema"), _next_message(messages, "record batch")
    schema = pa.ipc.read_schema(schema)
    if schema.names != ["list"]:
        raise LegacyArrowError("not pyarrow's legacy format (its column is not named list)")
    _check_union(schema.types[0], 0)
    if _is_compressed(batch.metadata.to_pybytes()):
        raise LegacyArrowError("not pyarrow's legacy format (it is compressed)")
    content = pa.ipc.read_record_batch(batch, schema)
    if content.num_rows != 1:
        raise LegacyArrowError(f"not pyarrow's legacy format ({content.num_rows} rows)")
    content.validate(full=True)
    return content.column(0)


def _next_message(messages: pa.ipc.MessageReader, kind: str) -> pa.ipc.Message:
    try:
        message = messages.read_next_message()
    except StopIteration as error:
        raise LegacyArrowError(f"cut off before its {kind}") from error
    if message.type != kind:
        raise LegacyArrowError(f"not pyarrow's legacy format (expected {kind}, got {message.type})")
    return message


def _is_compressed(metadata: bytes) -> bool:
    """True if a record batch message declares compressed buffers, which could expand a few bytes to any amount of memory.

    Field 3 of the table RecordBatch, which is field 2 of the table Message (Arrow's Message.fbs).
    """
    message = struct.unpack_from("<I", metadata)[0]
    field = message + _field_place(metadata, message, 2)
    batch = field + struct.unpack_from("<I", metadata, field)[0]
    return _field_place(metadata, batch, 3) > 0


def _field_place(metadata: bytes, table: int, number: int) -> int:
    """Returns the offset of a field in a flatbuffers table, from the table's start; 0 if the field is absent."""
    vtable = table - struct.unpack_from("<i", metadata, table)[0]
    entry = 4 + 2 * number
    return struct.unpack_from("<H", metadata, vtable + entry)[0] if entry < struct.unpack_from("<H", metadata, vtable)[0] else 0


def _check_union(union: pa.DataType, depth: int) -> None:
    """Raises LegacyArrowError for a type that pyarrow.serialize does not write."""
    if not isinstance(union, pa.DenseUnionType) or union.type_codes != list(range(union.num_fields)):
        raise LegacyArrowError(f"expected a union of kinds, got {str(union)[:100]}")
    names = [field.name for field in union]
    if names[:1] != ["0"] or len(set(names)) != len(names):
        raise LegacyArrowError(f"expected kind 0 and distinct further kinds, got {names[:20]}")
    for field in union:
        kind = _kind(field.name)
        is_list = isinstance(field.type, pa.ListType) and depth < MAX_DEPTH
        if not (field.type == SCALARS[kind] if kind in SCALARS else is_list):
            raise LegacyArrowError(f"kind {field.name} as {str(field.type)[:100]}, or nested deeper than {MAX_DEPTH}")
        if kind in SEQUENCES:
            _check_union(field.type.value_type, depth + 1)
        elif kind is Kind.DICT:
            _check_pairs(field.type.value_type, depth + 1)


def _check_pairs(pairs: pa.DataType, depth: int) -> None:
    if not isinstance(pairs, pa.StructType) or [field.name for field in pairs] != ["keys", "vals"]:
        raise LegacyArrowError(f"expected keys and vals, got {str(pairs)[:100]}")
    for field in pairs:
        _check_union(field.type, depth)


def _kind(name: str) -> Kind:
    if name not in KINDS_BY_NAME:
        raise LegacyArrowError(f"unsupported kind {ascii(name)[:20]}; supported are {READABLE}")
    return KINDS_BY_NAME[name]


def _values(union: pa.UnionArray) -> list[Any]:
    """Returns the values of a union. Each child value must be used once and in order, which bounds the output by the input."""
    if not len(union):  # pyarrow would read missing buffers of an empty array
        return []
    kinds = [_kind(field.name) for field in union.type]
    children = [union.field(number) for number in range(len(kinds))]
    _require(sum(map(len, children)) == len(union))
    parts = [_child_values(kind, child) for kind, child in zip(kinds, children, strict=True)]
    used = [0] * len(parts)
    values = []
    for ordinal, offset in zip(union.type_codes.to_numpy().tolist(), union.offsets.to_numpy().tolist(), strict=True):
        _require(offset == used[ordinal])
        used[ordinal] += 1
        values.append(parts[ordinal][offset])
    return values


def _child_values(kind: Kind, child: pa.Array) -> list[Any]:
    _require(child.null_count == 0 or kind is Kind.NONE)
    if not len(child):
        return []
    if kind in SCALARS:
        return child.to_pylist()
    ends = child.offsets.to_numpy().tolist()
    _require(ends[0] == 0 and ends[-1] == len(child.values) and sorted(ends) == ends)
    if kind in SEQUENCES:
        items = _values(child.values)
        return [SEQUENCES[kind](items[start:end]) for start, end in pairwise(ends)]
    _require(child.values.null_count == 0)
    keys, values = (_values(child.values.field(number)) for number in range(2))
    return [dict(zip(keys[start:end], values[start:end], strict=True)) for start, end in pairwise(ends)]


def _require(holds: bool) -> None:
    if not holds:
        raise LegacyArrowError("not pyarrow's legacy format (inconsistent offsets)")


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
