"""PhraseCut and RefCOCO-M: files of the published form, by hand."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from pseudo_ris.cli.main import main
from pseudo_ris.errors import UserError
from pseudo_ris.formats.phrasecut import read_phrasecut
from pseudo_ris.formats.refcoco_m import read_refcoco_m
from pseudo_ris.ris.config import DataConfig
from pseudo_ris.ris.data.splits import split_targets

SQUARE = [[2.7, 3.2], [9.9, 3.2], [9.9, 8.1], [2.7, 8.1]]
TRIANGLE = [[12, 2], [18, 2], [15, 9]]


def task(number: int, image: int, polygons: list, phrase: str = "black shirt") -> dict:
    structure = {"name": "shirt", "attributes": ["black"], "relation_ids": [], "relation_descriptions": [], "type": "attribute"}
    return {
        "task_id": f"{image}__{number}",
        "image_id": image,
        "ann_ids": [number],
        "instance_boxes": [[2, 3, 8, 6]],
        "Polygons": polygons,
        "phrase": phrase,
        "phrase_structure": structure,
    }


def phrasecut(folder: Path, **splits: list[dict]) -> Path:
    (folder / "images").mkdir(parents=True)
    sizes = [{"image_id": number, "coco_id": None, "width": 24, "height": 16, "url": "", "split": "val"} for number in (7, 8)]
    (folder / "image_data_split3000.json").write_text(json.dumps(sizes))
    for split, tasks in splits.items():
        (folder / f"refer_{split}.json").write_text(json.dumps(tasks))
    for number in (7, 8):
        Image.new("RGB", (24, 16), (number, 0, 0)).save(folder / "images" / f"{number}.jpg")
    return folder


def drawn(polygons: list) -> np.ndarray:
    """Oracle: each polygon on a canvas of its own, added up, as in the set's polygons_to_mask."""
    total = np.zeros((16, 24))
    for polygon in polygons:
        canvas = Image.new("L", (24, 16), 0)
        ImageDraw.Draw(canvas).polygon([(int(x), int(y)) for x, y in polygon], outline=1, fill=1)
        total += np.array(canvas)
    return total > 0


def test_a_phrases_region_is_the_union_of_its_instances(tmp_path):
    tasks = [task(1, 7, [[SQUARE], [TRIANGLE]]), task(2, 8, [[SQUARE, TRIANGLE]]), task(3, 7, [[TRIANGLE]], "a shirt")]
    images = list(read_phrasecut(phrasecut(tmp_path / "set", val=tasks, test=[task(4, 8, [[SQUARE]])])))
    assert [(each.split, each.name, len(each.objects)) for each in images] == [
        ("test", "8.jpg", 1),
        ("val", "7.jpg", 2),
        ("val", "8.jpg", 1),
    ]
    both, triangle = images[1].objects
    np.testing.assert_array_equal(both.mask.decode(), drawn([SQUARE, TRIANGLE]))
    np.testing.assert_array_equal(triangle.mask.decode(), drawn([TRIANGLE]))
    assert (both.sentences, triangle.sentences) == (("black shirt",), ("a shirt",))
    assert images[1].read() == (tmp_path / "set" / "images" / "7.jpg").read_bytes()


def test_phrasecut_becomes_a_set_to_evaluate_on(tmp_path):
    source = phrasecut(tmp_path / "set", val=[task(1, 7, [[SQUARE]]), task(2, 8, [[TRIANGLE]])])
    options = ["--from", "phrasecut", str(source), "--to", "refer", str(tmp_path / "out"), "--dataset", "phrasecut"]
    assert main(["convert", *options]) == 0
    data = DataConfig(dataset="phrasecut", refer_root=str(tmp_path / "out"), images=str(source / "images"))
    targets = split_targets(data, "val")
    np.testing.assert_array_equal(targets[1].read_mask(), drawn([TRIANGLE]))
    assert [target.sentences for target in targets] == [("black shirt",)] * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"phrase": None}, r"refer_val\.json, entry 0: phrase is missing"),
        ({"Polygons": [[["x", 1]]]}, r"refer_val\.json, entry 0: Polygons: not lists of points"),
        ({"Polygons": 3}, r"refer_val\.json, entry 0: Polygons is missing or no list"),
        ({"image_id": 99}, r"image 99 is not in image_data\*\.json"),
    ],
)
def test_a_damaged_task_is_named(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        list(read_phrasecut(phrasecut(tmp_path / "set", val=[task(1, 7, [[SQUARE]]) | change])))


def test_missing_files_of_phrasecut_are_named(tmp_path):
    with pytest.raises(UserError, match=r"has no refer_\*\.json"):
        read_phrasecut(tmp_path)
    (tmp_path / "refer_val.json").write_text("[]")
    with pytest.raises(UserError, match=r"has no image_data\*\.json"):
        read_phrasecut(tmp_path)


def encoded(mask: np.ndarray) -> dict:
    rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"counts": rle["counts"].decode(), "size": [int(side) for side in rle["size"]]}


def refcoco_m(folder: Path, **change) -> Path:
    """One row as in moondream/refcoco-m's files."""
    file = io.BytesIO()
    Image.new("RGB", (24, 16)).save(file, "png")
    sample = {
        "id": 5,
        "image_id": 7,
        "category": "person",
        "supercategory": "person",
        "label": "man",
        "sentences": ["man on left", "left guy"],
        "bbox": [2.0, 3.0, 8.0, 6.0],
        "mask": encoded(drawn([SQUARE])),
    }
    row = {
        "image": {"bytes": file.getvalue(), "path": None},
        "image_id": 7,
        "file_name": "COCO_train2014_000000000007.jpg",
        "samples": [sample | change],
    }
    (folder / "data").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([row]), folder / "data" / "validation-00000-of-00001.parquet")
    return folder


def test_refcoco_ms_rows_are_images_with_their_masks(tmp_path):
    (image,) = read_refcoco_m(refcoco_m(tmp_path / "set"))
    assert (image.split, image.name, image.height, image.width) == ("validation", "COCO_train2014_000000000007.jpg", 16, 24)
    (only,) = image.objects
    np.testing.assert_array_equal(only.mask.decode(), drawn([SQUARE]))
    assert (only.object_id, only.sentences) == (5, ("man on left", "left guy"))
    assert Image.open(io.BytesIO(image.read())).size == (24, 16)


def test_refcoco_m_becomes_a_set_with_images(tmp_path):
    source, out = refcoco_m(tmp_path / "set"), tmp_path / "out"
    options = ["--from", "refcoco-m", str(source), "--to", "refer", str(out), "--dataset", "refcoco-m", "--copy-images"]
    assert main(["convert", *options]) == 0
    (target,) = split_targets(DataConfig(dataset="refcoco-m", refer_root=str(out), images=str(out / "images")), "validation")
    assert target.sentences == ("man on left", "left guy")
    np.testing.assert_array_equal(target.read_mask(), drawn([SQUARE]))


def test_what_is_no_file_of_refcoco_m_is_named(tmp_path):
    with pytest.raises(UserError, match="has no Parquet file"):
        read_refcoco_m(tmp_path)
    with pytest.raises(UserError, match=r"row 0.*mask"):
        list(read_refcoco_m(refcoco_m(tmp_path / "set", mask={"counts": "zz", "size": [16, 24]})))
    (tmp_path / "other.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match=r"other\.parquet: not a Parquet file of RefCOCO-M"):
        list(read_refcoco_m(tmp_path / "other.parquet"))
    pq.write_table(pa.table({"image": [1]}), tmp_path / "less.parquet")
    with pytest.raises(UserError, match="column image_id is missing"):
        list(read_refcoco_m(tmp_path / "less.parquet"))
