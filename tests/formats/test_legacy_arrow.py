"""pyarrow 11's serialisation of values, with today's pyarrow."""

from __future__ import annotations

import ast
import json
import struct
from pathlib import Path
from random import Random

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pseudo_ris.formats.legacy_arrow import HEADER, MAX_DEPTH, LegacyArrowError, deserialize, serialize

# See the README beside it.
GOLDEN = json.loads((Path(__file__).parent / "golden" / "legacy_arrow" / "values.json").read_text())
RECORD = {
    "img": b"\xff\xd8" * 300,
    "cat": 3,
    "img_name": "a.jpg",
    "sents": ["a dog", "left"],
    "box": (1, 2.5, None),
    "set": {1},
}

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.binary(max_size=30),
    st.text(max_size=20),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.sets(scalars, max_size=4),
        st.dictionaries(scalars, inner, max_size=4),
    ),
    max_leaves=25,
)


def typed(value):
    """Tells what Python takes for equal: 1, 1.0 and True, and the order of dicts."""
    if isinstance(value, dict):
        return dict, [(typed(key), typed(inner)) for key, inner in value.items()]
    if isinstance(value, set):
        return set, {typed(inner) for inner in value}
    if isinstance(value, list | tuple):
        return type(value), tuple(typed(inner) for inner in value)
    return type(value), value


@pytest.mark.parametrize("entry", GOLDEN, ids=lambda entry: entry["value"][:30])
def test_bytes_are_those_of_pyarrow_11(entry):
    value, data = ast.literal_eval(entry["value"]), bytes.fromhex(entry["hex"])
    assert serialize(value) == data
    assert typed(deserialize(data)) == typed(value)


@settings(max_examples=60, derandomize=True, deadline=None, database=None)
@given(values)
def test_values_come_back_as_they_were(value):
    data = serialize(value)
    assert len(data) % 64 == 0
    assert typed(deserialize(data)) == typed(value)


def nested(depth):
    value = 1
    for _ in range(depth):
        value = [value]
    return value


def test_values_that_have_no_place_are_refused():
    assert deserialize(serialize(nested(MAX_DEPTH))) == nested(MAX_DEPTH)
    endless: list = []
    endless.append(endless)
    for value in (nested(MAX_DEPTH + 1), endless, 2**63, -(2**63) - 1, {"a": object()}, [1j], "\ud800", bytearray(b"x")):
        with pytest.raises(LegacyArrowError):
            serialize(value)


def stream_of(array: pa.Array, name: str = "list", **options) -> bytes:
    """A value with any column."""
    batch = pa.record_batch([array], names=[name])
    stream = pa.BufferOutputStream()
    with pa.ipc.new_stream(stream, batch.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_batch(batch)
    return HEADER.pack(0, 0, 0, 0) + stream.getvalue().to_pybytes()


def union(ordinals, offsets, children, names):
    return pa.UnionArray.from_dense(pa.array(ordinals, pa.int8()), pa.array(offsets, pa.int32()), children, names)


def int64(number: int) -> bytes:
    return struct.pack("<q", number)


NONES = pa.nulls(0)


def test_structures_that_pyarrow_11_does_not_make_are_refused():
    numbers = pa.array([7, 8], pa.int64())
    twice = union([1, 1], [0, 0], [NONES, numbers], ["0", "2"])
    sound = union([1], [0], [NONES, numbers[:1]], ["0", "2"])
    assert deserialize(stream_of(sound)) == 7
    refused = {
        "no union": stream_of(pa.array([1])),
        "another column": stream_of(sound, "item"),
        "two rows": stream_of(union([1, 1], [0, 1], [NONES, numbers], ["0", "2"])),
        "compressed": stream_of(sound, compression="zstd"),
        "unused values": stream_of(union([1], [0], [NONES, numbers], ["0", "2"])),
        "values used twice": stream_of(union([1], [0], [NONES, pa.ListArray.from_arrays([0, 2], twice)], ["0", "10"])),
        "endless nones": stream_of(union([0], [0], [pa.nulls(12345)], ["0"])).replace(int64(12345), int64(2**40)),
        "missing values": stream_of(union([1], [0], [NONES, pa.array([None], pa.int64())], ["0", "2"])),
        "a kind twice": stream_of(union([1], [0], [NONES, numbers[:1], numbers[:0]], ["0", "2", "2"])),
        "an array's kind": stream_of(union([1], [0], [NONES, numbers[:1]], ["0", "15"])),
        "no kind": stream_of(union([1], [0], [NONES, numbers[:1]], ["0", "list"])),
        "another type": stream_of(union([1], [0], [NONES, numbers[:1]], ["0", "5"])),
        "lists as keys": stream_of(unhashable()),
        "tensors": HEADER.pack(1, 0, 0, 0) + stream_of(sound)[16:],
    }
    for name, data in refused.items():
        with pytest.raises(LegacyArrowError):
            pytest.fail(f"{name}: {deserialize(data)}")


def unhashable() -> pa.Array:
    """{[]: ...}"""
    empty = pa.ListArray.from_arrays(pa.array([0, 0], pa.int32()), union([], [], [NONES], ["0"]))
    keys = union([1], [0], [NONES, empty], ["0", "10"])
    pairs = pa.StructArray.from_arrays([keys, keys], ["keys", "vals"])
    return union([1], [0], [NONES, pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), pairs)], ["0", "11"])


def test_cut_off_values_are_refused_wherever_it_is():
    data = serialize(RECORD)
    end = data.rindex(struct.pack("<II", 0xFFFFFFFF, 0))
    for length in range(0, end, 8):
        with pytest.raises(LegacyArrowError):
            deserialize(data[:length])


def test_damaged_values_are_read_or_refused():
    random, data = Random(5), serialize(RECORD)
    outcomes = set()
    for _ in range(1500):
        damaged = bytearray(data)
        for _ in range(random.choice((1, 1, 4))):
            place = random.randrange(len(damaged))
            damaged[place : place + 4] = random.choice((b"\0" * 4, b"\xff" * 4, random.randbytes(1), random.randbytes(8), b""))
        try:
            deserialize(bytes(damaged))
            outcomes.add("read")
        except LegacyArrowError as error:
            assert "\n" not in str(error)
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}
