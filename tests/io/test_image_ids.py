"""Image ids: what they are, which can name no files, and which are those of two images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from pseudo_ris.errors import UserError
from pseudo_ris.io.files import is_case_sensitive
from pseudo_ris.io.image_ids import image_id_of, names_a_folder, printable, require_distinct, unusable_images
from pseudo_ris.io.images import list_images
from pseudo_ris.records import ImageRecord
from pseudo_ris.runtime.failures import FAILURES_FILE, write_failures
from pseudo_ris.runtime.image_loop import Failure
from pseudo_ris.runtime.runs import EXIT_FAILURES, Run, read_failures
from pseudo_ris.runtime.shares import ALL, LOCK, Shard
from pseudo_ris.runtime.status_file import status_path
from pseudo_ris.runtime.tracebacks import FOLDER
from pseudo_ris.storage.caption_parts import FOLDER_SUFFIX
from pseudo_ris.storage.compaction.archive import SHARDS, earlier_name
from pseudo_ris.storage.mask_store import META

HALF = Shard(0, 2)


@pytest.mark.parametrize(
    ("name", "image_id"),
    [
        ("COCO_train2014_000000000009.jpg", "9"),
        ("val/COCO_val2014_000000123456.jpg", "123456"),
        ("train2017/000000000030.jpg", "30"),
        ("dog.jpg", "dog"),
        ("a/b/c.d.png", "a__b__c.d"),
        ("0009.jpg", "0009"),
    ],
)
def test_image_ids(name, image_id):
    assert image_id_of(name) == image_id


def records_of(image_ids: Sequence[str]) -> list[ImageRecord]:
    return [ImageRecord(image_id, f"{number}.jpg", bytes) for number, image_id in enumerate(image_ids)]


def names_in_outputs(folder: Path) -> list[str]:
    """Names that a stage may give to files and folders beside those of images."""
    run, half = (Run("test", folder, (), False, shard) for shard in (ALL, HALF))
    return [
        META,
        FOLDER,
        FAILURES_FILE,
        run.path.name,
        half.path.name,
        SHARDS,
        earlier_name(Path(SHARDS)).name,
        f"pairs{FOLDER_SUFFIX}",
        f"{LOCK}.{ALL.file_name}",
        LOCK,
        status_path(folder, ALL).name,
        status_path(folder, HALF).name,
    ]


def test_no_image_id_is_a_name_that_the_outputs_use(tmp_path):
    names = names_in_outputs(tmp_path)
    for image_id in (*names, *map(str.upper, names), *map(str.title, names)):
        assert not names_a_folder(image_id), image_id
        (reason,) = unusable_images(records_of([image_id])).values()
        assert reason.startswith("0.jpg: image id ")
        assert "rename the file" in reason
        assert image_id in reason


def test_ids_that_cannot_be_folder_names_are_refused():
    ids = ["../x", "a/b", "/x", "..", "", "a\0b", "x" * 201, "ä" * 101, "a.tmp"]
    assert not any(map(names_a_folder, ids))
    assert len(unusable_images(records_of(ids))) == len(ids)
    usable = ["a", "x" * 200, "ä" * 100, "meta", "a.csv", "my_failures", "failures", "failures.csv.a", "shards_of_glass", "a.b"]
    assert unusable_images(records_of(usable)) == {}


def test_two_images_with_one_id_are_refused_by_name(tmp_path):
    for name in ("a.jpg", "rgb16.png", "rgb16.tif", "c/d.jpg", "c__d.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = list_images(tmp_path)
    message = r"^c/d\.jpg, c__d\.jpg: have the same image id c__d; 1 more ids are shared; rename all but one"
    with pytest.raises(UserError, match=message):
        require_distinct(found)
    with pytest.raises(UserError, match=r"^rgb16\.png, rgb16\.tif: have the same image id rgb16; rename all but one"):
        require_distinct(found[:1] + found[3:])
    require_distinct(found[:2])


def test_many_images_with_one_id_are_refused_in_few_words():
    with pytest.raises(UserError, match=r"^0\.jpg, 1\.jpg, 2\.jpg and 19997 more: have the same image id 0; rename"):
        require_distinct(records_of(["0"] * 20000))


def test_ids_that_differ_in_case_are_one_where_the_file_system_ignores_case(tmp_path):
    found = records_of(["Dog", "dog"])
    Run("test", tmp_path, found, False)
    (tmp_path / "x").touch()
    assert is_case_sensitive(tmp_path)
    (tmp_path / "X").touch()
    assert is_case_sensitive(tmp_path), "two files"
    (tmp_path / "X").unlink()
    (tmp_path / "X").symlink_to("x")  # what a file system that ignores case shows
    assert not is_case_sensitive(tmp_path)
    with pytest.raises(UserError, match=r"^0\.jpg, 1\.jpg: .*ignores case"):
        Run("test", tmp_path, found, False)


def test_a_name_that_is_not_utf8_fails_alone(tmp_path):
    folder = tmp_path / "images"
    for name in (b"a.jpg", b"caf\xe9.jpg", b"d\xff/000000000009.jpg"):
        path = folder / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for _ in range(2):
        with Run("test", tmp_path, list_images(folder), False) as run:
            for record in run.images():
                with run.guard(record):
                    run.finished(record)
            assert run.close() == EXIT_FAILURES
        assert [record.name for record in run.current()] == ["a.jpg"]
        failures = read_failures(tmp_path / FAILURES_FILE)
        assert [failure.image for failure in failures] == [r"caf\xe9.jpg", r"d\xff/000000000009.jpg"]
        assert all("not UTF-8; rename the file" in failure.reason for failure in failures)
        assert failures[0].reason.startswith(r"caf\xe9.jpg: ")


def test_names_are_escaped_where_utf8_cannot_hold_them(tmp_path):
    assert [printable(text) for text in ("größe", "a\udce9\udc80b", "\ud800")] == ["größe", r"a\xe9\x80b", r"\ud800"]
    write_failures(tmp_path / FAILURES_FILE, [Failure("\udce9", "\udce9.jpg", "\udce9 is bad", "k")])
    assert read_failures(tmp_path / FAILURES_FILE) == [Failure(r"\xe9", r"\xe9.jpg", r"\xe9 is bad", "k")]
