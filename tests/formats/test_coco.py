"""COCO files with captions, and ordinary ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from random_sets import image, thing

from pseudo_ris.errors import UserError
from pseudo_ris.formats.coco import read_coco, write_coco
from pseudo_ris.world.coco_writer import load_coco_scenes

DEMO = Path(__file__).parents[2] / "datasets" / "demo"


def file(folder: Path, *annotations: dict, **more) -> Path:
    images = [
        {"id": 5, "file_name": "5.jpg", "height": 10, "width": 12},
        {"id": 3, "file_name": "3.jpg", "height": 4, "width": 4},
    ]
    path = folder / "instances.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": []} | more))
    return path


def annotation(number: int, **changes) -> dict:
    polygon = [[1, 1, 6, 1, 6, 5, 1, 5]]
    return {"id": number, "image_id": 5, "category_id": 18, "iscrowd": 0, "segmentation": polygon} | changes


def test_an_ordinary_file_is_read():
    images = list(read_coco(DEMO / "instances.json", DEMO / "images"))
    for each, (name, scene) in zip(images, load_coco_scenes(DEMO), strict=True):
        assert each.name == name
        assert each.read() == (DEMO / "images" / name).read_bytes()
        assert np.array_equal([one.mask.decode() for one in each.objects], scene.masks)
        assert all(one.sentences == () and one.ref_id == one.object_id == one.seg_id for one in each.objects)


def test_run_lengths_as_lists_captions_without_ids_and_images_without_objects_are_read_and_crowds_are_not(tmp_path):
    runs = {"size": [10, 12], "counts": [15, 5, 100]}
    path = file(
        tmp_path,
        annotation(9, segmentation=runs, captions=["a", "b"]),
        annotation(8, segmentation=runs, iscrowd=1),
        annotation(7, captions=["c"]),
    )
    first, second = read_coco(path)
    assert [(each.object_id, each.category_id) for each in first.objects] == [(9, 18), (7, 18)]
    assert [(each.sentences, each.sent_ids) for each in first.objects] == [(("a", "b"), (0, 1)), (("c",), (2,))]
    assert first.objects[0].mask.box_and_area() == ((1, 5, 2, 10), 5)
    assert (second.image_id, second.objects, second.split) == ("3", (), "train")


def test_pycocotools_reads_what_is_written(tmp_path, capsys):
    images = [image("7", (thing(1, "a dog"), thing(2, "a cat", "🎈"))), image("x__y", (thing(5, "left"),), split="val")]
    write_coco(tmp_path / "out", images, copy_images=True)
    assert sorted(path.name for path in (tmp_path / "out" / "images").iterdir()) == ["7.png", "x__y.png"]
    coco = COCO(tmp_path / "out" / "pairs.json")
    for number, one in ((1, images[0].objects[0]), (2, images[0].objects[1]), (5, images[1].objects[0])):
        (entry,) = coco.loadAnns([number])
        assert np.array_equal(coco.annToMask(entry), one.mask.decode())
        assert entry["area"] == one.mask.decode().sum()
        assert entry["captions"] == list(one.sentences)
        assert "refs" not in entry
    assert [entry["file_name"] for entry in coco.dataset["images"]] == ["7.png", "x__y.png"]
    assert "pairs" not in coco.dataset


def test_refs_that_share_a_mask_share_an_annotation(tmp_path):
    first = thing(1, "a dog", category_id=18)
    images = [image("7", (first, thing(2), thing(3, "b", "c", object_id=1, seg_id=1, mask=first.mask, category_id=2)))]
    write_coco(tmp_path / "out", images)
    content = json.loads((tmp_path / "out" / "pairs.json").read_text())
    assert [entry["id"] for entry in content["annotations"]] == [1, 2]
    assert content["annotations"][0]["captions"] == ["a dog", "b", "c"]
    assert content["annotations"][0]["refs"] == [
        {"ref_id": 1, "category_id": 18, "captions": 1},
        {"ref_id": 3, "category_id": 2, "captions": 2},
    ]
    assert list(read_coco(tmp_path / "out")) == images


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"segmentation": None}, "annotation 1: segmentation: "),
        ({"segmentation": {"size": [10, 12], "counts": "zz"}}, "annotation 1: segmentation: run lengths"),
        ({"image_id": 4}, "annotation 1: image_id 4 is not in `images`"),
        ({"id": "1"}, "annotations 0: id is missing or no"),
        ({"category_id": None}, "annotation 1: category_id is missing"),
        ({"captions": "a"}, "annotation 1: captions is missing or no"),
        ({"captions": [1]}, "ref 1: sentences: "),
        ({"captions": ["a"], "caption_ids": []}, "annotation 1: 1 captions but 0 caption_ids"),
        ({"captions": ["a"], "refs": [{"ref_id": 1, "category_id": 1, "captions": 2}]}, "refs: .* 1; get the file again"),
        ({"seg_id": "x"}, "annotation 1: seg_id is missing or no"),
    ],
)
def test_annotations_that_do_not_fit_are_named(tmp_path, changes, message):
    with pytest.raises(UserError, match=message) as caught:
        list(read_coco(file(tmp_path, annotation(1, **changes))))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"images": {}}, "has no list images"),
        ({"pairs": [{"image_id": 5, "split": "train", "ref_ids": []}]}, "pairs: ref 1 is missing"),
        ({"pairs": [{"image_id": 3, "split": "train", "ref_ids": [1]}]}, "pairs 0: ref_ids: 1 is a duplicate"),
        ({"pairs": [{"image_id": 5, "split": "a", "ref_ids": [1]}] * 2}, "pairs 1: ref_ids: 1 is a duplicate"),
        ({"images": [{"id": 5, "file_name": "../5.jpg", "height": 10, "width": 12}]}, "name: '../5.jpg' is no path inside"),
        ({"images": [{"id": 5, "file_name": "5.jpg", "height": 10**6, "width": 10**6}]}, "at most 100 megapixels"),
        ({"images": [{"id": 5, "file_name": "5.jpg", "width": 12}]}, "image 5: height is missing"),
    ],
)
def test_files_that_do_not_fit_are_named(tmp_path, more, message):
    with pytest.raises(UserError, match=message) as caught:
        list(read_coco(file(tmp_path, annotation(1), **more)))
    assert "\n" not in str(caught.value)
