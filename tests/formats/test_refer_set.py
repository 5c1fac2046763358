"""Whole REFER sets, read and written."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from random_sets import image, thing

from pseudo_ris.errors import UserError
from pseudo_ris.formats.refer_set import read_refer, write_refer

# See the README beside it.
SET = Path(__file__).parent / "golden" / "refcoco"
# What the loader of naver-ai/maskris gave: split, shape, pixels and SHA-1 of the mask (uint8), box (x, y, w, h), sentences.
LOADED = {
    11: (
        ("train", (214, 320), 15604, "efbe2714583e7f55bf42ed6ff8855c6470328fcd", (100, 40, 120, 150)),
        ("the dog", "dog in the middle"),
    ),
    12: (
        ("val", (213, 320), 22600, "55599f00730665e02e2cd4d5c72dfcd99f039581", (30, 60, 250, 100)),
        ("black truck",),
    ),
    13: (
        ("testA", (213, 320), 1200, "25cdf21ce8d8c62708c250021368bc0de2376ad3", (5, 5, 40, 30)),
        ("car far left", "little car", "left car"),
    ),
}


def loaded(images) -> dict:
    found = {}
    for each in images:
        for one in each.objects:
            mask = one.mask.decode().astype(np.uint8)
            (x0, y0, x1, y1), area = one.mask.box_and_area()
            digest = hashlib.sha1(np.ascontiguousarray(mask)).hexdigest()
            found[one.ref_id] = (each.split, mask.shape, area, digest, (x0, y0, x1 - x0, y1 - y0)), one.sentences
    return found


def test_a_set_is_read_as_its_own_loader_reads_it():
    images = list(read_refer(SET))
    assert loaded(images) == LOADED
    assert [(each.image_id, each.split, each.name) for each in images] == [
        ("900001", "train", "COCO_train2014_000000900001.jpg"),
        ("900003", "val", "COCO_train2014_000000900003.jpg"),
        ("900003", "testA", "COCO_train2014_000000900003.jpg"),
    ]
    truck = images[1].objects[0]
    assert (truck.object_id, truck.seg_id, truck.category_id, truck.sent_ids) == (502, 502, 8, (3,))


def test_file_folder_and_folder_above_are_the_same_set(tmp_path):
    shutil.copytree(SET, tmp_path / "refcoco")
    assert list(read_refer(tmp_path)) == list(read_refer(SET)) == list(read_refer(SET / "refs(unc).p"))


def test_what_is_written_is_what_refers_loader_takes(tmp_path):
    write_refer(tmp_path / "out", list(read_refer(SET)), "refcoco")
    refs = pickle.loads((tmp_path / "out" / "refcoco" / "refs(unc).p").read_bytes())
    content = json.loads((tmp_path / "out" / "refcoco" / "instances.json").read_text())
    original = pickle.loads((SET / "refs(unc).p").read_bytes())
    for ref, other in zip(refs, original, strict=True):
        assert ref.keys() == other.keys()
        for field in set(ref) - {"sentences", "file_name"}:
            assert ref[field] == other[field]
        for sentence, true in zip(ref["sentences"], other["sentences"], strict=True):
            assert sentence == true | {"raw": true["sent"]}
    images = {entry["id"]: entry for entry in content["images"]}
    annotations = {entry["id"]: entry for entry in content["annotations"]}
    for ref in refs:
        annotation = annotations[ref["ann_id"]]
        # As REFER's getMask goes about it.
        assert type(annotation["segmentation"][0]) is not list
        mask = np.sum(coco_mask.decode(annotation["segmentation"]), axis=2).astype(np.uint8)
        split, shape, area, digest, box = LOADED[ref["ref_id"]][0]
        assert mask.shape == shape == tuple(images[ref["image_id"]][side] for side in ("height", "width"))
        assert hashlib.sha1(np.ascontiguousarray(mask)).hexdigest() == digest
        assert sum(coco_mask.area(annotation["segmentation"])) == annotation["area"] == area
        assert tuple(annotation["bbox"]) == box
        assert ref["split"] == split
    assert [entry["name"] for entry in content["categories"]] == ["car", "truck", "dog"]
    assert not {"pairs", "seg_id"} & {key for entry in (content, *content["annotations"]) for key in entry} - {"pairs"}


def test_the_pickle_needs_no_more_than_protocol_2_and_plain_data(tmp_path):
    write_refer(tmp_path / "out", [image(objects=(thing(1, "A dog's, 🎈"),))], "some")
    data = (tmp_path / "out" / "some" / "refs(unc).p").read_bytes()
    assert data[:2] == b"\x80\x02"
    sentence = pickle.loads(data)[0]["sentences"][0]
    assert sentence == {"sent_id": 100, "sent": "A dog's, 🎈", "raw": "A dog's, 🎈", "tokens": ["a", "dog's"]}


def test_further_fields_are_written_only_where_they_say_something_new(tmp_path):
    plain = [image("7", (thing(1, "a"), thing(2, "b"))), image("8", (thing(3, "c"),))]
    write_refer(tmp_path / "plain", plain, "some")
    content = json.loads((tmp_path / "plain" / "some" / "instances.json").read_text())
    assert content.keys() == {"images", "annotations", "categories"}
    assert content["images"][0].keys() == {"id", "file_name", "height", "width"}
    assert "seg_id" not in content["annotations"][0]
    assert content["categories"] == [{"id": 1, "name": "object"}]
    odd = [image("x", (thing(1, "a", seg_id=0),)), image("y")]
    write_refer(tmp_path / "odd", odd, "some")
    content = json.loads((tmp_path / "odd" / "some" / "instances.json").read_text())
    assert [(entry["id"], entry["image_id"]) for entry in content["images"]] == [(1, "x"), (2, "y")]
    assert content["annotations"][0]["seg_id"] == 0
    assert content["pairs"] == [
        {"image_id": 1, "split": "train", "ref_ids": [1]},
        {"image_id": 2, "split": "train", "ref_ids": []},
    ]


def changed(folder: Path, **changes) -> Path:
    """A copy of the set with fields of its first ref changed."""
    shutil.copytree(SET, folder / "refcoco")
    path = folder / "refcoco" / "refs(unc).p"
    refs = pickle.loads(path.read_bytes())
    refs[0].update(changes)
    path.write_bytes(pickle.dumps(refs))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ann_id": 7}, "ref 0: .*has no annotation 7 of image 900001"),
        ({"ann_id": 502}, "ref 0: .*has no annotation 502 of image 900001"),
        ({"image_id": 7}, "ref 0: .*has no annotation 501 of image 7"),
        ({"ref_id": 12}, "ref_id: 12 is a duplicate"),
        ({"ref_id": 10**5000}, "ref 0: ref_id is missing or no"),
        ({"split": "../../x"}, "split: '../../x' is not a valid name"),
        ({"split": os.sep}, "split: '/' is not a valid name"),
    ],
)
def test_refs_that_do_not_fit_are_named(tmp_path, changes, message):
    with pytest.raises(UserError, match=message) as caught:
        list(read_refer(changed(tmp_path, **changes)))
    assert "\n" not in str(caught.value)


def test_a_folder_without_or_with_several_sets_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"must contain one refs\(\*\).p, has none"):
        list(read_refer(tmp_path))
    for name in ("a", "b"):
        shutil.copytree(SET, tmp_path / name)
    with pytest.raises(UserError, match=r"has a/refs\(unc\).p, b/refs\(unc\).p"):
        list(read_refer(tmp_path))


@pytest.mark.parametrize("dataset", ["../x", "", ".x", "images", "a/b"])
def test_a_data_set_is_called_by_a_plain_name(tmp_path, dataset):
    with pytest.raises(UserError, match="--dataset"):
        write_refer(tmp_path / "out", [], dataset)
    assert not list(tmp_path.iterdir())
