"""Parquet files in the form of Hugging Face's `datasets`."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from random_sets import Bytes, image, png, thing

from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.formats import parquet
from pseudo_ris.formats.parquet import read_parquet, write_parquet


@pytest.fixture
def path(tmp_path):
    write_parquet(tmp_path / "pairs.parquet", [image("7", (thing(1, "a dog", "🎈"),)), image("8", split="val")])
    return tmp_path / "pairs.parquet"


def test_rows_are_images_with_samples(path):
    row, other = pq.read_table(path).to_pylist()
    mask = thing(1).mask
    assert row == {
        "image": {"bytes": png(10, 12), "path": "7.png"},
        "image_id": "7",
        "file_name": "7.png",
        "split": "train",
        "height": 10,
        "width": 12,
        "samples": [
            {
                "id": 1,
                "object_id": 1,
                "seg_id": 1,
                "category_id": 1,
                "sent_ids": [100, 101],
                "sentences": ["a dog", "🎈"],
                "bbox": [3, 2, 2, 3],
                "mask": {"size": [10, 12], "counts": mask.counts},
            }
        ],
    }
    assert (other["samples"], other["split"]) == ([], "val")


def test_the_schema_tells_datasets_what_is_an_image(path):
    features = json.loads(pq.read_schema(path).metadata[b"huggingface"])["info"]["features"]
    assert list(features) == pq.read_schema(path).names
    assert features["image"] == {"_type": "Image"}
    assert features["image_id"] == {"dtype": "string", "_type": "Value"}
    assert features["samples"][0]["sentences"] == [{"dtype": "string", "_type": "Value"}]
    assert features["samples"][0]["mask"]["size"] == [{"dtype": "int64", "_type": "Value"}]


def test_row_groups_are_bounded_and_images_are_read_when_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "GROUP_ROWS", 4)
    monkeypatch.setattr(parquet, "GROUP_BYTES", 2000)
    images = [image(str(number), read=Bytes(bytes([number]) * (1400 if number > 8 else 10))) for number in range(13)]
    write_parquet(tmp_path / "x", iter(images))
    file = pq.ParquetFile(tmp_path / "x")
    assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [4, 4, 3, 2]
    read = list(read_parquet(tmp_path / "x"))
    for each, true in reversed(list(zip(read, images, strict=True))):
        assert each.read() == true.read()


def test_a_file_that_is_written_anew_is_read_anew(tmp_path):
    for data in (b"one", b"two"):
        (tmp_path / "x").unlink(missing_ok=True)
        write_parquet(tmp_path / "x", [image(read=Bytes(data))])
        assert next(read_parquet(tmp_path / "x")).read() == data


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not a file of pairs" * 9])
def test_what_is_no_parquet_is_refused(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(UserError, match="x: not a Parquet file of pairs"):
        list(read_parquet(tmp_path / "x"))


def test_missing_files_and_other_columns_are_refused(tmp_path, path):
    with pytest.raises(UserError, match="none: not a Parquet file"):
        list(read_parquet(tmp_path / "none"))
    table = pq.read_table(path)
    pq.write_table(table.drop(["split"]), tmp_path / "x")
    with pytest.raises(UserError, match="column split is missing"):
        list(read_parquet(tmp_path / "x"))
    pq.write_table(table.set_column(4, "height", pa.array(["a", "b"])), tmp_path / "x")
    with pytest.raises(UserError, match="column height is missing or not int64"):
        list(read_parquet(tmp_path / "x"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_id": None}, "row 0: image_id is missing"),
        ({"file_name": "../x"}, "name: '../x' is no path inside"),
        ({"samples": [None]}, "row 0, sample 0: is not a JSON object"),
        ({"samples": [{"id": 1, "mask": {"size": [1]}}]}, "row 0, sample 0: object_id is missing"),
    ],
)
def test_rows_that_do_not_fit_are_named(tmp_path, path, changes, message):
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[0] |= changes
    pq.write_table(pa.Table.from_pylist(rows, table.schema), tmp_path / "x")
    with pytest.raises(UserError, match=message):
        list(read_parquet(tmp_path / "x"))


def test_a_row_without_an_image_is_an_image_that_cannot_be_read(tmp_path, path):
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[0]["image"] = None
    pq.write_table(pa.Table.from_pylist(rows, table.schema), tmp_path / "x")
    first, second = read_parquet(tmp_path / "x")
    with pytest.raises(BadInputError):
        first.read()
    assert second.read() == png(10, 12)
