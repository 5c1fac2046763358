"""gRefCOCO sets: refs with no, one and several targets."""

from __future__ import annotations

import json

import numpy as np
import pytest
from random_sets import image, thing

from pseudo_ris.errors import UserError
from pseudo_ris.formats.grefcoco import read_grefcoco, write_grefcoco
from pseudo_ris.pairs.pair_set import Rle

LEFT, RIGHT, TOP = ([[x0, y0, x1, y0, x1, y1, x0, y1]] for x0, y0, x1, y1 in ((0, 0, 4, 9), (6, 0, 11, 9), (2, 0, 8, 3)))


def sentence(number: int) -> dict:
    return {
        "sent_id": number,
        "sent": f"text {number}",
        "raw": f"Text {number}",
        "tokens": ["text", str(number)],
        "exist": True,
    }


def ref(ref_id: int, ann_id, category_id, **changes) -> dict:
    plain = {
        "ref_id": ref_id,
        "image_id": 5,
        "split": "train",
        "file_name": "5.jpg",
        "ann_id": ann_id,
        "category_id": category_id,
    }
    return plain | {"sentences": [sentence(ref_id)], "sent_ids": [ref_id]} | changes


def written(folder, *refs, annotations=()) -> None:
    (folder / "set").mkdir()
    polygons = {11: LEFT, 12: RIGHT, 13: TOP}
    content = {
        "images": [{"id": 5, "file_name": "5.jpg", "height": 10, "width": 12}],
        "annotations": [
            {"id": number, "image_id": 5, "category_id": number + 7, "iscrowd": 0, "segmentation": segmentation}
            for number, segmentation in polygons.items()
        ],
        "categories": [],
    }
    (folder / "set" / "instances.json").write_text(json.dumps(content))
    (folder / "set" / "grefs(unc).json").write_text(json.dumps(refs))


def test_targets_are_joined_and_none_is_an_empty_mask(tmp_path):
    written(
        tmp_path, ref(1, [11], [18]), ref(2, [13, 11], [20, 18]), ref(3, [-1], [-1]), ref(4, [11, 13], [18, 20]), ref(5, 12, 19)
    )
    (only,) = read_grefcoco(tmp_path)
    masks = {number: Rle.of_segmentation(each, 10, 12).decode() for number, each in ((11, LEFT), (12, RIGHT), (13, TOP))}
    wanted = [masks[11], masks[11] | masks[13], np.zeros((10, 12), bool), masks[11] | masks[13], masks[12]]
    for each, mask in zip(only.objects, wanted, strict=True):
        assert np.array_equal(each.mask.decode(), mask)
    assert [each.object_id for each in only.objects] == [11, 14, 15, 14, 12]
    assert [each.category_id for each in only.objects] == [18, 20, 1, 18, 19]
    assert [each.sentences for each in only.objects] == [(f"text {number}",) for number in range(1, 6)]


def test_no_target_is_written_as_grefcoco_has_it(tmp_path):
    empty = thing(2, "nothing", mask=Rle.of(np.zeros((10, 12), bool)), category_id=3)
    write_grefcoco(tmp_path / "out", [image(objects=(thing(1, "a dog"), empty))], "some")
    refs = json.loads((tmp_path / "out" / "some" / "grefs(unc).json").read_text())
    assert [(each["ann_id"], each["category_id"]) for each in refs] == [([1], [1]), ([-1], [-1])]
    assert refs[1]["mask"] == {"object_id": 2, "seg_id": 2, "category_id": 3}
    content = json.loads((tmp_path / "out" / "some" / "instances.json").read_text())
    assert [each["id"] for each in content["annotations"]] == [1]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (ref(1, [10], [1]), "has no annotation 10 of image 5"),
        (ref(1, [11.0], [1]), "entry 0: ann_id is neither"),
        (ref(1, None, [1]), "entry 0: ann_id is neither"),
        (ref(1, [11], "x"), "entry 0: category_id is neither"),
        (ref(1, [-1], [-1], mask={"object_id": 1}), "mask: seg_id is missing"),
        (ref(1, [-1], [-1], image_id=6), "image 6: is not in `images`"),
        (ref(1, [11], [1], sentences=[{"sent": "x"}]), "sent_id is missing"),
        ([], "entry 0: is no object"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, bad, message):
    written(tmp_path, bad)
    with pytest.raises(UserError, match=message) as caught:
        list(read_grefcoco(tmp_path))
    assert "\n" not in str(caught.value)


def test_the_number_of_no_target_is_no_object_id(tmp_path):
    with pytest.raises(UserError, match="object_id -1"):
        write_grefcoco(tmp_path / "out", [image(objects=(thing(1, object_id=-1),))], "some")


def test_a_union_of_objects_of_the_set_is_written_as_their_ids_and_keeps_its_own(tmp_path):
    written(tmp_path, ref(1, [11], [18]), ref(2, [13, 11], [20, 18]), ref(3, [13], [20]), ref(4, [11, 12], [18, 19]))
    found = list(read_grefcoco(tmp_path))
    assert [each.targets for each in found[0].objects] == [(), (13, 11), (), (11, 12)]
    write_grefcoco(tmp_path / "out", found, "set")
    refs = json.loads((tmp_path / "out" / "set" / "grefs(unc).json").read_text())
    # No ref means 12 alone, so 12 is not in the set and its union with 11 is an annotation.
    union = found[0].objects[3].object_id
    assert [(each["ann_id"], each["category_id"]) for each in refs[:3]] == [([11], [18]), ([13, 11], [20, 18]), ([13], [20])]
    assert refs[3]["ann_id"] == [union]
    assert list(read_grefcoco(tmp_path / "out")) == found
