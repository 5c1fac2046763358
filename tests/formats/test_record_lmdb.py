"""LMDBs of records: read without LMDB's library, written with it."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from random import Random

import lmdb
import pytest

from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.formats.legacy_arrow import serialize
from pseudo_ris.formats.record_lmdb import KEYS, LENGTH, SERIALIZATIONS, LmdbRecord, RecordLmdb, writing_records
from pseudo_ris.io.lmdb_file import LmdbFile

ROOT = Path(__file__).parents[2]
FIELDS = {"img": b"jpeg", "mask": b"png", "cat": 3, "seg_id": 40, "img_name": "a.jpg", "num_sents": 2, "sents": ["a", "é, 🎈"]}


def record(number: int = 0, size: int = 10) -> LmdbRecord:
    data = Random(number).randbytes(size)
    return LmdbRecord(data, b"png", number % 80, number, f"{number}.jpg", ("the dog", "", "🎈\n\"'")[: number % 4])


def write(path: Path, items: dict[bytes, bytes], **options) -> Path:
    with lmdb.open(str(path), 1 << 26, lock=False, **{"subdir": False, **options}) as environment:
        with environment.begin(write=True) as transaction:
            for key, value in items.items():
                transaction.put(key, value)
        environment.sync(True)
    return path


def write_values(path: Path, *values: object) -> Path:
    keys = [str(number).encode() for number in range(len(values))]
    items = {key: value if isinstance(value, bytes) else serialize(value) for key, value in zip(keys, values, strict=True)}
    return write(path, {**items, KEYS: serialize(keys), LENGTH: serialize(len(values))})


@pytest.mark.parametrize("serialization", SERIALIZATIONS)
def test_records_come_back_from_a_file_that_grew_with_them(tmp_path, serialization):
    records = [
        LmdbRecord(b"i", b"m", 1, 2, "x", (), img_id=7, further={"ref_id": 5, "sent_ids": [1], "note": None}),
        *(record(number, 60_000) for number in range(60)),
    ]
    with writing_records(tmp_path / "train.lmdb", serialization) as writer:
        for each in records:
            writer.add(each)
        name = writer.add_image(b"loose")
    assert [path.name for path in tmp_path.iterdir()] == ["train.lmdb"]
    assert sum(len(each.img) for each in records) < (tmp_path / "train.lmdb").stat().st_size < 5_000_000
    read = RecordLmdb(tmp_path / "train.lmdb")
    assert list(read) == records
    assert read.image_bytes(3) == records[3].img
    assert read.loose_image_bytes(name) == b"loose"
    with lmdb.open(str(tmp_path / "train.lmdb"), 4096, subdir=False, readonly=True, lock=False) as environment:
        assert environment.info()["map_size"] < 10_000_000


def test_fields_are_stored_in_the_original_tools_order():
    fields = LmdbRecord(b"jpeg", b"png", 3, 40, "a.jpg", ("a", "é, 🎈"), img_id=9, further={"ref_id": 5}).as_fields()
    assert list(fields) == ["img", "mask", "cat", "seg_id", "img_name", "img_id", "num_sents", "sents", "ref_id"]
    assert LmdbRecord(b"jpeg", b"png", 3, 40, "a.jpg", ("a", "é, 🎈")).as_fields() == FIELDS


def test_lookups_find_what_lmdb_finds_in_deep_trees_and_after_deletions(tmp_path):
    random = Random(1)
    items = {
        random.randbytes(random.randrange(1, 400)): random.randbytes(random.choice((0, 1, 50, 2000, 9000))) for _ in range(2500)
    }
    path = write(tmp_path / "x.lmdb", items)
    with lmdb.open(str(path), 1 << 26, subdir=False, lock=False) as environment, environment.begin(write=True) as transaction:
        for key in list(items)[::3]:
            transaction.delete(key)
            del items[key]
    with lmdb.open(str(path), 1 << 26, subdir=False, lock=False) as environment:
        assert environment.stat()["depth"] >= 3
    file = LmdbFile(path)
    assert all(file.get(key) == value for key, value in items.items())
    absent = [b"", b"\0", b"\xff" * 500, *(random.randbytes(random.randrange(2, 20)) for _ in range(500))]
    assert all(file.get(key) is None for key in absent if key not in items)


def test_an_empty_lmdb_holds_nothing(tmp_path):
    assert LmdbFile(write(tmp_path / "x.lmdb", {})).get(b"0") is None
    with pytest.raises(UserError, match="key __len__: is missing; give an LMDB of ETRIS"):
        RecordLmdb(tmp_path / "x.lmdb").keys  # noqa: B018


def test_a_folder_that_nothing_may_be_written_to_is_read(tmp_path):
    folder = tmp_path / "train.lmdb"
    write(folder, {b"0": serialize(FIELDS), KEYS: serialize([b"0"]), LENGTH: serialize(1)}, subdir=True)
    assert (folder / "data.mdb").exists()
    folder.chmod(0o500)
    before = sorted(folder.iterdir())
    assert RecordLmdb(folder)[0].as_fields() == FIELDS
    assert sorted(folder.iterdir()) == before


READ_IN_WORKERS = """
import multiprocessing, sys
from pathlib import Path
from pseudo_ris.formats.record_lmdb import RecordLmdb

def read(number):
    return records[number]

records = RecordLmdb(Path(sys.argv[1]))
if __name__ == "__main__":
    wanted = [records[number] for number in range(40)]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(read, range(40), chunksize=1) == wanted
    assert list(records) == wanted
"""


@pytest.mark.slow
def test_forked_processes_read_one_lmdb_at_once(tmp_path):
    """As the workers of a data loader do; from a process that has no threads, with which forking is not safe."""
    with writing_records(tmp_path / "x.lmdb") as writer:
        for number in range(40):
            writer.add(record(number, 5000))
    command = [sys.executable, "-c", READ_IN_WORKERS, str(tmp_path / "x.lmdb")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


def test_a_pickled_reader_opens_nothing_until_it_reads(tmp_path):
    path = write_values(tmp_path / "x.lmdb", FIELDS)
    records = RecordLmdb(path)
    assert len(records) == 1
    other = pickle.loads(pickle.dumps(records))
    path.rename(tmp_path / "y.lmdb")
    with pytest.raises(UserError, match=r"x\.lmdb: No such file or directory"):
        len(other)
    shutil.copy(tmp_path / "y.lmdb", path)
    assert other[0].as_fields() == FIELDS


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1], "is list, not a dict"),
        ({**FIELDS, "img": "text"}, "img is missing or no"),
        ({key: value for key, value in FIELDS.items() if key != "mask"}, "mask is missing or no"),
        ({**FIELDS, "cat": True}, "cat is missing or no"),
        ({**FIELDS, "img_id": "9"}, "img_id is missing or no"),
        ({**FIELDS, "num_sents": 3}, "sents is not a list of num_sents texts"),
        ({**FIELDS, "sents": ["a", 1]}, "sents is not a list of num_sents texts"),
        (pickle.dumps({**FIELDS, "seg_id": 2**70}, 5), "seg_id is missing or no"),
        (pickle.dumps(Path("a"), 5), "it asks for pathlib"),
        (pickle.dumps(FIELDS, 5)[:-9], "not a pickle of plain data"),
        (b"hello", "neither a pickle nor pyarrow's old layout"),
        (serialize(FIELDS)[:200], "neither a pickle nor pyarrow's old layout"),
    ],
)
def test_a_record_that_does_not_fit_is_named(tmp_path, value, message):
    records = RecordLmdb(write_values(tmp_path / "x.lmdb", FIELDS, value))
    assert records[0].as_fields() == FIELDS
    with pytest.raises(UserError, match=message) as caught:
        records[1]
    assert f"{tmp_path / 'x.lmdb'}, key 1:" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(BadInputError, match=message):
        records.image_bytes(1)


@pytest.mark.parametrize(
    ("keys", "length"), [([b"0"], 2), (["0"], 1), (b"0", 1), ([b"0"], -1), ([b"0"], True), ([b"0"], "1"), ({}, 0)]
)
def test_keys_that_do_not_fit_are_refused(tmp_path, keys, length):
    path = write(tmp_path / "x.lmdb", {b"0": serialize(FIELDS), KEYS: serialize(keys), LENGTH: serialize(length)})
    with pytest.raises(UserError, match=r"x\.lmdb, __(keys|len)__: is no"):
        len(RecordLmdb(path))


def test_other_files_are_refused(tmp_path):
    def refused(data: bytes) -> str:
        (tmp_path / "y").write_bytes(data)
        with pytest.raises(UserError, match=r"y: not a sound LMDB") as caught:
            len(RecordLmdb(tmp_path / "y"))
        return str(caught.value)

    assert "too short" in refused(b"")
    assert "no LMDB of data version 1" in refused(bytes(9000))
    whole = write(tmp_path / "whole", {b"0": b"x"}).read_bytes()
    flags = range(16 + 76, 2 * 4096, 4096)  # of the main tree in both meta pages
    assert "in another order" in refused(bytes(2 if place in flags else byte for place, byte in enumerate(whole)))
    with pytest.raises(UserError, match="No such file"):
        len(RecordLmdb(tmp_path / "none"))
    with pytest.raises(UserError, match="No such file"):
        len(RecordLmdb(tmp_path))


def test_damaged_files_are_read_or_refused(tmp_path):
    random = Random(3)
    path = tmp_path / "x.lmdb"
    with writing_records(path) as writer:
        for number in range(150):
            writer.add(record(number, random.choice((10, 3000))))
    data, outcomes = path.read_bytes(), set()
    for _ in range(100):
        damaged = bytearray(data)
        for _ in range(random.choice((1, 4, 30))):
            # in the meta pages and where pages and nodes begin, which is where it hurts
            place = random.choice((random.randrange(8192), 4096 * random.randrange(len(data) // 4096) + random.randrange(64)))
            new = random.choice((b"\xff" * 8, b"\0" * 4, random.randbytes(1), random.randbytes(8)))
            damaged[place : place + len(new)] = new
        path.write_bytes(damaged[: random.choice((len(data), len(data), random.randrange(len(data))))])
        try:
            records = RecordLmdb(path)
            for number in random.sample(range(len(records)), min(3, len(records))):
                assert isinstance(records[number], LmdbRecord)
            outcomes.add("read")
        except UserError as error:
            assert "\n" not in str(error)
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def test_a_tree_that_leads_back_to_itself_ends(tmp_path):
    path = write(tmp_path / "x.lmdb", {b"%05d" % number: b"x" * 500 for number in range(2000)})
    data = bytearray(path.read_bytes())
    meta = max((0, 4096), key=lambda page: int.from_bytes(data[page + 144 : page + 152], "little"))
    root = int.from_bytes(data[meta + 128 : meta + 136], "little")
    first_node = root * 4096 + int.from_bytes(data[root * 4096 + 16 : root * 4096 + 18], "little")
    data[first_node : first_node + 6] = root.to_bytes(6, "little")
    path.write_bytes(data)
    with pytest.raises(UserError, match="deeper than 32"):
        LmdbFile(path).get(b"00000")


def test_what_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"record 0: .*write the LMDB with pickle"), writing_records(tmp_path / "x") as writer:
        writer.add(LmdbRecord(b"", b"", 0, 2**63, "", ()))
    with pytest.raises(UserError, match=r"cannot write .*none/x"), writing_records(tmp_path / "none" / "x"):
        pass


def test_no_file_stays_open(tmp_path):
    path = write_values(tmp_path / "x.lmdb", FIELDS)
    for _ in range(20):
        len(RecordLmdb(path))
    assert not any(os.path.samestat(os.fstat(descriptor), path.stat()) for descriptor in open_files())


def open_files() -> list[int]:
    """Descriptors that are open now."""

    def is_open(descriptor: int) -> bool:
        try:
            os.fstat(descriptor)
        except OSError:
            return False
        return True

    return [descriptor for descriptor in range(256) if is_open(descriptor)]
