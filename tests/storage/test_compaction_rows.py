"""Shards as files."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pseudo_ris.errors import UserError
from pseudo_ris.storage.compaction.archive import Archive
from pseudo_ris.storage.compaction.rows import (
    GROUP_BYTES,
    GROUP_ROWS,
    DamagedShardError,
    Row,
    read_group_of,
    read_ids_and_keys,
    read_rows,
    write_shard,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
FILES = st.lists(st.tuples(TEXT, st.binary(max_size=8)), max_size=3).map(tuple)


@given(rows=st.lists(st.builds(Row, TEXT, TEXT, TEXT, TEXT, FILES), max_size=5, unique_by=lambda row: row.image_id))
@settings(deadline=None, max_examples=20)
def test_rows_come_back(rows, tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "shards" / "000000.parquet"
    assert write_shard(path, rows) == [(row.image_id, row.key) for row in rows]
    assert list(read_rows(path)) == rows
    assert path.exists() == bool(rows)
    archive = Archive(path.parent)
    assert [archive.find(row.image_id) for row in rows] == rows
    assert [archive.key_of(row.image_id) for row in rows] == [row.key for row in rows]


@pytest.mark.slow
def test_a_row_is_found_in_groups_of_any_size(tmp_path):
    sizes = [3] * (GROUP_ROWS + 5) + [GROUP_BYTES] + [3] * 4
    rows = [Row(f"i{number}", "n", "k", "", (("0.png", b"x" * size),)) for number, size in enumerate(sizes)]
    write_shard(tmp_path / "0.parquet", rows)
    firsts = []
    for number in range(len(rows)):
        first, group = read_group_of(tmp_path / "0.parquet", number)
        firsts.append(first)
        assert group[number - first] == rows[number]
    assert sorted({*firsts}) == [0, GROUP_ROWS, GROUP_ROWS + 6]


def test_what_fails_in_between_leaves_the_shard_as_it_was(tmp_path):
    path = tmp_path / "0.parquet"
    write_shard(path, [Row("a", "a.jpg", "k", "{}")])
    before = path.read_bytes()

    def broken():
        yield Row("b", "b.jpg", "k", "{}")
        raise UserError("no more")

    with pytest.raises(UserError, match="no more"):
        write_shard(path, broken())
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["0.parquet"]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + bytes(40) + b"PAR1", b"no parquet at all" * 9])
def test_what_is_no_shard_is_damaged(tmp_path, content):
    (tmp_path / "0.parquet").write_bytes(content)
    with pytest.raises(DamagedShardError, match=r"0.parquet: damaged shard .*remove the file"):
        read_ids_and_keys(tmp_path / "0.parquet")
    assert Archive(tmp_path).find("a") is None


def test_a_file_that_may_not_be_read_is_not_damaged(tmp_path):
    (tmp_path / "0.parquet").mkdir()
    with pytest.raises(UserError, match="cannot be read"):
        read_ids_and_keys(tmp_path / "0.parquet")


def test_an_archive_sees_what_was_written_since(tmp_path):
    write_shard(tmp_path / "0.parquet", [Row("a", "n", "1", ""), Row("b", "n", "1", "")])
    archive = Archive(tmp_path)
    assert archive.find("b").key == "1"
    write_shard(tmp_path / "0.parquet", [Row("aa", "n", "2", ""), Row("a", "n", "2", ""), Row("b", "n", "2", "")])
    archive._held.clear()
    assert archive.find("b").key == "2"
    archive.forget()
    assert archive.key_of("aa") == "2"
