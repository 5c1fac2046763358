"""Annotations in place of pseudo masks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.io.files import digest
from pseudo_ris.io.segmentation import decode_segmentation
from pseudo_ris.records import ImageRecord
from pseudo_ris.sources.annotation_masks import AnnotationMasks

ROOT = Path(__file__).parents[2]
REFER = ROOT / "tests" / "formats" / "golden" / "refcoco" / "refs(unc).p"
SQUARE = [[2, 3, 8, 3, 8, 9, 2, 9]]
HEIGHT, WIDTH = 20, 30


def record(image_id: str = "9", name: str = "nine.jpg") -> ImageRecord:
    return ImageRecord(image_id, name, bytes)


def annotation(number: int, segmentation: object = SQUARE, image_id: int = 9, **further) -> dict:
    return {"id": number, "image_id": image_id, "category_id": 1, "segmentation": segmentation, **further}


def run_lengths(mask: np.ndarray) -> dict:
    encoded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode()}


def image(**changes) -> dict:
    return {"id": 9, "file_name": "nine.jpg", "height": HEIGHT, "width": WIDTH, **changes}


def written(folder: Path, *annotations: dict, images: tuple[dict, ...] = (image(),)) -> Path:
    path = folder / "instances.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": []}))
    return path


def given(folder: Path, *annotations: dict, images: tuple[dict, ...] = (image(),)) -> AnnotationMasks:
    return AnnotationMasks.of_coco(written(folder, *annotations, images=images))


def key(masks: AnnotationMasks) -> str:
    return digest(*masks.read(record()).flat())


def test_polygons_and_run_lengths_become_masks_in_the_order_of_their_ids(tmp_path):
    mask = np.random.default_rng(0).random((HEIGHT, WIDTH)) < 0.3
    masks = given(
        tmp_path, annotation(70, run_lengths(mask)), annotation(8), annotation(5, image_id=4), images=(image(), image(id=4))
    )
    seg_ids, decoded = masks.read(record()).decode(HEIGHT, WIDTH)
    assert seg_ids == [8, 70]
    assert decoded.dtype == bool
    assert np.array_equal(decoded, [decode_segmentation(SQUARE, HEIGHT, WIDTH), mask])
    assert masks.read(record("4")).decode(HEIGHT, WIDTH)[0] == [5]


def test_an_image_without_annotations_has_no_masks(tmp_path):
    seg_ids, decoded = given(tmp_path).read(record()).decode(HEIGHT, WIDTH)
    assert seg_ids == []
    assert decoded.shape == (0, HEIGHT, WIDTH)


def test_crowds_and_blank_masks_are_left_out_and_numbers_stay(tmp_path):
    blank, full = run_lengths(np.zeros((HEIGHT, WIDTH), bool)), run_lengths(np.ones((HEIGHT, WIDTH), bool))
    masks = given(tmp_path, annotation(1, iscrowd=1), annotation(2, blank), annotation(3, full), annotation(4, iscrowd=0))
    assert masks.read(record()).decode(HEIGHT, WIDTH)[0] == [4]
    with pytest.raises(BadInputError, match=r"nine\.jpg: all 2 masks are blank"):
        given(tmp_path, annotation(2, blank), annotation(3, full)).read(record()).decode(HEIGHT, WIDTH)


def test_seg_ids_and_image_ids_that_an_export_noted_win(tmp_path):
    masks = given(tmp_path, annotation(70, seg_id=1), annotation(71, seg_id=0), images=(image(image_id="a__nine"),))
    assert masks.read(record("a__nine")).decode(HEIGHT, WIDTH)[0] == [0, 1]


def test_the_hash_is_that_of_the_image_s_annotations_alone(tmp_path):
    images = (image(), image(id=4))
    before = key(given(tmp_path, annotation(8), annotation(9), annotation(5, image_id=4), images=images))
    assert key(given(tmp_path, annotation(9, bbox=[1, 2, 3, 4]), annotation(8))) == before
    moved = [[2, 3, 8, 3, 8, 9, 2, 10]]
    changed = [
        key(given(tmp_path, annotation(8), annotation(9, moved))),
        key(given(tmp_path, annotation(8), annotation(10))),
        key(given(tmp_path, annotation(8))),
        key(given(tmp_path, annotation(8), annotation(9), images=(image(height=21),))),
        key(given(tmp_path)),
    ]
    assert len({before, *changed}) == 1 + len(changed)


@pytest.mark.parametrize("image_id, name", [("8", "nine.jpg"), ("9", "eight.jpg"), ("nine", "nine.jpg")])
def test_an_image_that_the_file_does_not_know_is_a_failure_of_that_image(tmp_path, image_id, name):
    with pytest.raises(
        BadInputError, match=f"{name}: .*instances.json has no image .* the id {image_id}; list the images with --coco"
    ):
        given(tmp_path, annotation(1)).read(record(image_id, name))


def test_an_image_may_lie_in_another_folder_and_be_of_another_format(tmp_path):
    assert given(tmp_path, annotation(1)).read(record(name="train/nine.png")).decode(HEIGHT, WIDTH)[0] == [1]


def test_another_size_than_the_annotated_is_a_failure_of_that_image(tmp_path):
    with pytest.raises(BadInputError, match=r"nine\.jpg: 20x30 pixels.*, but its annotations are for 30x20; give the image"):
        given(tmp_path, annotation(1)).read(record()).decode(WIDTH, HEIGHT)
    unsized = {"id": 9, "file_name": "nine.jpg"}
    assert given(tmp_path, annotation(1), images=(unsized,)).read(record()).decode(13, 14)[1].shape == (1, 13, 14)
    with pytest.raises(BadInputError, match=r"nine\.jpg, annotation 1: run lengths are of size \[20, 30\]"):
        rle = run_lengths(np.eye(HEIGHT, WIDTH, dtype=bool))
        given(tmp_path, annotation(1, rle), images=(unsized,)).read(record()).decode(13, 14)


@pytest.mark.parametrize("segmentation", [None, [], [[1, 2, 3]], {"size": [HEIGHT, WIDTH], "counts": "oo"}])
def test_a_damaged_segmentation_is_a_failure_of_that_image_that_names_it(tmp_path, segmentation):
    with pytest.raises(BadInputError, match=r"nine\.jpg, annotation 7: .*; fix or remove the annotation"):
        given(tmp_path, annotation(1), annotation(7, segmentation)).read(record()).decode(HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("annotations", "images", "message"),
    [
        ((annotation(1), annotation(1)), (image(),), r"annotations 1: id 1 is a duplicate"),
        ((annotation(1, seg_id=0), annotation(2, seg_id=0)), (image(),), r"annotations 1: id 2 is a duplicate or not a seg id"),
        ((annotation(-1),), (image(),), r"annotations 0: id -1 is a duplicate or not a seg id"),
        ((annotation(10**18),), (image(),), r"annotations 0: id 10+ is a duplicate or not a seg id"),
        ((annotation(1, image_id=8),), (image(),), r"annotations 0: image_id is not in `images`"),
        ((annotation("1"),), (image(),), r"annotations 0: id is missing or no"),
        ((7,), (image(),), r"annotations 0: is no object"),
        ((), (image(), image()), r"images 1: id 9 is there twice"),
        ((), (image(), image(id=8, image_id="9")), r"images 1: .* is there twice"),
        ((), (image(id="9"),), r"images 0: id is missing or no"),
    ],
)
def test_a_file_that_does_not_fit_is_one_line_that_names_the_entry(tmp_path, annotations, images, message):
    with pytest.raises(UserError, match=rf"instances\.json, {message}") as caught:
        given(tmp_path, *annotations, images=images)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("split", "image_id", "seg_ids"), [("train", 900001, [501]), ("val", 900003, [502]), ("testA", 900003, [503])]
)
def test_of_a_refer_set_only_what_the_split_s_refs_name_is_taken(split, image_id, seg_ids):
    masks = AnnotationMasks.of_refer(REFER, split)
    size = {900001: (214, 320), 900003: (213, 320)}[image_id]
    own, other = (record(str(number), f"COCO_train2014_000000{number}.jpg") for number in (image_id, 1800004 - image_id))
    assert masks.read(own).decode(*size)[0] == seg_ids
    assert masks.read(other).segmentations == {}


def test_a_refer_set_without_what_its_refs_name_is_refused(tmp_path):
    refs = tmp_path / "refs(unc).p"
    refs.write_bytes(REFER.read_bytes())
    with pytest.raises(UserError, match=r"instances\.json: No such file"):
        AnnotationMasks.of_refer(refs, "train")
    with pytest.raises(UserError, match=r"--split test: .* choose one of: testA, train, val"):
        AnnotationMasks.of_refer(refs, "test")
    written(tmp_path, annotation(500))
    with pytest.raises(UserError, match=r"instances\.json: has no annotation 501, which the refs name"):
        AnnotationMasks.of_refer(refs, "train")
