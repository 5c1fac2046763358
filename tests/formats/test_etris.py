"""ETRIS's and CRIS's data sets: what is written, what is read, and what is refused."""

from __future__ import annotations

import io
import json
import pickle
from dataclasses import replace
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from PIL import Image
from random_sets import image, sets, thing

from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.formats.coco_categories import COCO_CATEGORIES
from pseudo_ris.formats.etris import read_anns, read_lmdb, write_anns, write_lmdb
from pseudo_ris.formats.legacy_arrow import deserialize
from pseudo_ris.formats.record_lmdb import LmdbRecord, writing_records
from pseudo_ris.io.mask_png import decode_mask

SETTINGS = {"derandomize": True, "deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}


def content(images) -> list:
    return [(each, each.read()) for each in images]


def png_of(grey: np.ndarray) -> bytes:
    return cv2.imencode(".png", grey)[1].tobytes()


def two_images():
    """A set that needs no further field: its ids are what reading counts."""
    first = image("900001", (thing(0, "the dog", "dog", sent_ids=(0, 1)), thing(1, sent_ids=(), category_id=90)))
    second = image("7", (thing(2, 'left, "red"\n🎈', sent_ids=(2,), category_id=3),))
    return [replace(first, name="COCO_train2014_000000900001.jpg"), second]


def etris_loader(path: Path) -> list[dict]:
    """Records as ETRIS's RefDataset gets them: number and keys first, then a record by its key."""
    environment = lmdb.open(str(path), subdir=False, max_readers=32, readonly=True, lock=False, readahead=False, meminit=False)
    with environment, environment.begin(write=False) as transaction:
        length, keys = deserialize(transaction.get(b"__len__")), deserialize(transaction.get(b"__keys__"))
        assert length == len(keys)
        return [deserialize(transaction.get(keys[number])) for number in range(length)]


@pytest.mark.parametrize("serialization", ["pyarrow", "pickle"])
@settings(max_examples=5, **SETTINGS)
@given(images=sets())
def test_random_sets_come_back_from_lmdbs(tmp_path_factory, serialization, images):
    out = tmp_path_factory.mktemp("lmdb") / "out"
    write_lmdb(out, iter(images), serialization)
    assert content(read_lmdb(out)) == content(images)


@settings(max_examples=5, **SETTINGS)
@given(images=sets())
def test_random_sets_come_back_from_anns(tmp_path_factory, images):
    out = tmp_path_factory.mktemp("anns") / "out"
    write_anns(out, iter(images), "some", copy_images=True)
    assert content(read_anns(out)) == content(images)


def test_an_lmdb_holds_what_etriss_loader_reads_and_nothing_else(tmp_path):
    images = two_images()
    write_lmdb(tmp_path / "out", images)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["train.lmdb"]
    records = etris_loader(tmp_path / "out" / "train.lmdb")
    names = ["img", "mask", "cat", "seg_id", "img_name", "img_id", "num_sents", "sents"]
    assert [list(record) for record in records] == [names] * 3
    assert [(record["img_id"], record["seg_id"], record["cat"]) for record in records] == [
        (900001, 0, 0),
        (900001, 1, 79),
        (7, 2, 2),
    ]
    assert [record["sents"] for record in records] == [["the dog", "dog"], [], ['left, "red"\n🎈']]
    assert [record["num_sents"] for record in records] == [2, 0, 1]
    objects = [(each, owner) for owner in images for each in owner.objects]
    for record, (each, owner) in zip(records, objects, strict=True):
        assert record["img"] == owner.read()
        mask = cv2.imdecode(np.frombuffer(record["mask"], np.uint8), cv2.IMREAD_GRAYSCALE)
        np.testing.assert_array_equal(mask, each.mask.decode() * np.uint8(255))


def test_anns_hold_the_original_tools_fields_and_no_others(tmp_path):
    write_anns(tmp_path / "out", two_images(), "refcoco")
    files = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert files == ["anns/refcoco/train.json", *(f"masks/refcoco/{number}.png" for number in range(3))]
    first, empty, _ = json.loads((tmp_path / "out" / "anns" / "refcoco" / "train.json").read_text())
    assert first == {
        "bbox": [3, 2, 4, 5],
        "cat": 0,
        "segment_id": 0,
        "img_name": "COCO_train2014_000000900001.jpg",
        "img_id": 900001,
        "sentences": [{"idx": 0, "sent_id": 0, "sent": "the dog"}, {"idx": 1, "sent_id": 1, "sent": "dog"}],
        "sentences_num": 2,
    }
    assert (empty["cat"], empty["sentences"], empty["sentences_num"]) == (79, [], 0)


def test_what_the_original_fields_do_not_say_stands_in_further_ones(tmp_path):
    other = image("é", (thing(7, "a", sent_ids=(5,), seg_id=1, category_id=12),), name="x/y.png")
    write_lmdb(tmp_path / "lmdb", [other])
    record = etris_loader(tmp_path / "lmdb" / "train.lmdb")[0]
    further = {"image_id": "é", "category_id": 12, "seg_id_in_image": 1, "ref_id": 7, "sent_ids": [5]}
    assert dict(list(record.items())[7:]) == further
    write_anns(tmp_path / "anns", [other], "some")
    entry = json.loads((tmp_path / "anns" / "anns" / "some" / "train.json").read_text())[0]
    del further["sent_ids"]
    assert dict(list(entry.items())[6:]) == further


def record(name: str, seg_id: int, *sentences: str, grey=None, **changes) -> LmdbRecord:
    grey = np.full((4, 5), 255, np.uint8) if grey is None else grey
    return replace(LmdbRecord(name.encode(), png_of(grey), 0, seg_id, name, sentences), **changes)


def write_records(path: Path, *records: LmdbRecord) -> Path:
    with writing_records(path) as writer:
        for each in records:
            writer.add(each)
    return path


def test_an_images_objects_are_brought_together_where_its_first_one_is(tmp_path):
    path = write_records(
        tmp_path / "val.lmdb", record("b.jpg", 5, "one", "two"), record("a.jpg", 6, "x"), record("b.jpg", 7, "three", cat=79)
    )
    images = list(read_lmdb(path))
    assert [(each.name, each.image_id, each.split, each.height, each.width) for each in images] == [
        ("b.jpg", "b", "val", 4, 5),
        ("a.jpg", "a", "val", 4, 5),
    ]
    first, second = images[0].objects
    assert (first.ref_id, first.object_id, first.seg_id, first.sent_ids, first.category_id) == (0, 5, 5, (0, 1), 1)
    assert (second.ref_id, second.object_id, second.sentences, second.sent_ids, second.category_id) == (
        2,
        7,
        ("three",),
        (3,),
        90,
    )
    assert pickle.loads(pickle.dumps(images[1].read))() == b"a.jpg"


def test_numbers_are_unique_over_split_files_without_any(tmp_path):
    write_records(tmp_path / "train.lmdb", record("a.jpg", 1, "x", "y"), record("b.jpg", 2, "z"))
    write_records(tmp_path / "val.lmdb", record("c.jpg", 3, "u"))
    numbers = [(each.ref_id, each.sent_ids) for image in read_lmdb(tmp_path) for each in image.objects]
    assert numbers == [(0, (0, 1)), (1, (2,)), (2, (3,))]


def test_values_from_128_are_mask(tmp_path):
    grey = np.array([[0, 1, 127, 128], [253, 254, 255, 0]], np.uint8)
    path = write_records(tmp_path / "x.lmdb", record("a.jpg", 1, grey=grey))
    np.testing.assert_array_equal(next(read_lmdb(path)).objects[0].mask.decode(), grey >= 128)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "P"])
def test_masks_of_every_mode_are_read(mode):
    mask = np.eye(6, dtype=bool)
    file = io.BytesIO()
    Image.fromarray(mask * np.uint8(255)).convert(mode).save(file, "png")
    np.testing.assert_array_equal(decode_mask(file.getvalue()), mask)


def test_categories_are_cocos():
    assert len(COCO_CATEGORIES) == len(set(COCO_CATEGORIES.values())) == 80
    assert list(COCO_CATEGORIES) == sorted(COCO_CATEGORIES)
    missing = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    assert set(range(1, 91)) - COCO_CATEGORIES.keys() == missing
    assert [COCO_CATEGORIES[number] for number in (1, 18, 90)] == ["person", "dog", "toothbrush"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cat": 80}, "cat is not a number from 0 to 79"),
        ({"mask": b"no image"}, "mask: not a readable image"),
        ({"mask": png_of(np.zeros((3, 5), np.uint8))}, "size"),
        ({"further": {"ref_id": "7"}}, "ref_id is missing or no"),
        ({"further": {"sent_ids": [1, 2]}}, "sent_ids"),
        ({"further": {"sent_ids": ["1"]}}, "sent_ids"),
        ({"further": {"image_id": 5}}, "image_id is missing or no"),
        ({"img_name": "../a.jpg"}, "is no path inside a folder"),
        ({"seg_id": 1}, "object_id: 1 is used for two"),
    ],
)
def test_a_record_that_does_not_fit_is_named(tmp_path, changes, message):
    good = record("a.jpg", 1, "x", grey=np.eye(4, 5, dtype=np.uint8) * 255)
    path = write_records(tmp_path / "train.lmdb", good, replace(record("a.jpg", 2, "y"), **changes))
    with pytest.raises(UserError, match=message) as caught:
        list(read_lmdb(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def entry(**changes) -> dict:
    sentences = [{"idx": 0, "sent_id": 3, "sent": "a dog"}]
    plain = {"bbox": [0, 0, 5, 4], "cat": 0, "segment_id": 1, "img_name": "a.jpg", "sentences": sentences, "sentences_num": 1}
    return {**plain, **changes}


def write_entries(folder: Path, *entries: object) -> Path:
    for name in ("anns/some", "masks/some", "images"):
        (folder / name).mkdir(parents=True)
    (folder / "masks" / "some" / "1.png").write_bytes(png_of(np.full((4, 5), 255, np.uint8)))
    (folder / "images" / "a.jpg").write_bytes(b"jpeg")
    path = folder / "anns" / "some" / "train.json"
    path.write_text(json.dumps(entries))
    return path


def test_anns_are_found_by_file_folder_or_root(tmp_path):
    path = write_entries(tmp_path, entry())
    for place in (path, path.parent, tmp_path):
        (only,) = read_anns(place)
        assert (only.image_id, only.split, only.objects[0].sent_ids, only.read()) == ("a", "train", (3,), b"jpeg")
    (tmp_path / "masks" / "some").rename(tmp_path / "elsewhere")
    (only,) = read_anns(path, tmp_path / "none", tmp_path / "elsewhere")
    with pytest.raises(BadInputError, match=r"a\.jpg'?: no such file"):
        only.read()
    (tmp_path / "anns" / "other").mkdir()
    with pytest.raises(UserError, match="must contain one data set, has other, some; give anns/<dataset>"):
        read_anns(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"segment_id": 2}, r"2\.png'?: no such file"),
        ({"segment_id": "../1"}, "segment_id is missing or no"),
        ({"segment_id": 10**30}, "segment_id is not a 64-bit integer"),
        ({"img_name": None}, "img_name is missing or no"),
        ({"img_name": "/etc/passwd"}, "is no path inside a folder"),
        ({"sentences_num": 2}, "sentences_num is not the length of sentences"),
        ({"sentences": ["a"]}, "sentences: .*sent and sent_id"),
        ({"sentences": [{"sent": "a"}]}, "sent_id is missing"),
        ({"img_id": "7"}, "img_id is missing or no"),
    ],
)
def test_an_entry_that_does_not_fit_is_named(tmp_path, changes, message):
    path = write_entries(tmp_path, entry(**changes))
    with pytest.raises(UserError, match=message) as caught:
        list(read_anns(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_masks_and_images_that_lie_elsewhere_are_not_opened(tmp_path):
    path = write_entries(tmp_path / "set", entry(), entry(segment_id=2, img_name="b.jpg"))
    (tmp_path / "secret").write_bytes(png_of(np.full((4, 5), 255, np.uint8)))
    for name in ("images/b.jpg", "masks/some/2.png"):
        (tmp_path / "set" / name).symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match=r"2\.png'?: leads out of"):
        list(read_anns(path))
    (tmp_path / "set" / "masks" / "some" / "2.png").unlink()
    (tmp_path / "set" / "masks" / "some" / "2.png").write_bytes((tmp_path / "secret").read_bytes())
    with pytest.raises(BadInputError, match=r"b\.jpg'?: leads out of"):
        list(read_anns(path))[1].read()


def test_places_without_a_set_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"contains no <split>\.lmdb"):
        list(read_lmdb(tmp_path))
    with pytest.raises(UserError, match=r"contains no <split>\.json"):
        list(read_anns(tmp_path / "none"))
    (tmp_path / "train.json").write_text("{")
    with pytest.raises(UserError, match=r"train\.json: not JSON"):
        list(read_anns(tmp_path / "train.json"))


def test_a_list_of_images_that_fits_no_split_is_refused(tmp_path):
    write_lmdb(tmp_path / "out", [image("7", (thing(1, "a"),)), image("8", split="val")])
    listing = tmp_path / "out" / "images.json"
    entries = json.loads(listing.read_text())
    assert [(each["image_id"], "key" in each) for each in entries] == [("7", False), ("8", True)]
    for changed, message in (
        (entries[1:], "image '7': is not in the list of images"),
        ([*entries, entries[0]], "duplicate in split train"),
        ([{**entries[1], "split": "other"}], r"no 'other'\.lmdb"),
        ([{**entries[1], "height": 0}, entries[0]], "height"),
    ):
        listing.write_text(json.dumps(changed))
        with pytest.raises(UserError, match=message):
            list(read_lmdb(tmp_path / "out"))
    listing.write_text(json.dumps([entries[0], {**entries[1], "key": "0"}]))
    with pytest.raises(BadInputError, match=r"val\.lmdb: has no such image"):
        list(read_lmdb(tmp_path / "out"))[1].read()


def unreadable() -> bytes:
    raise BadInputError("gone.jpg: cannot be read")


def test_what_cannot_be_written_leaves_nothing(tmp_path):
    images = [image("7", (thing(1, "a"),)), replace(image("8", (thing(2, "b"),)), read=unreadable)]
    for write in (lambda out: write_lmdb(out, images), lambda out: write_anns(out, images, "x", copy_images=True)):
        with pytest.raises(UserError, match=r"gone\.jpg"):
            write(tmp_path / "out")
        assert not list(tmp_path.iterdir())
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="already exists"):
        write_lmdb(tmp_path / "out", images)
    with pytest.raises(UserError, match="is not a valid folder name"):
        write_anns(tmp_path / "new", images, "../x")
