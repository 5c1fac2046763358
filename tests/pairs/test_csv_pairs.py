"""Stage 2's CSV as a set of pairs."""

from __future__ import annotations

import csv
import io
import json

import cv2
import numpy as np
import pytest
from PIL import Image
from random_sets import png

from pseudo_ris.config import ScoringConfig
from pseudo_ris.errors import UserError
from pseudo_ris.pairs.csv_pairs import read_csv, upright_size

HEADER = ["index", "img_name", "img_id", "seg_id", "num_sent", "pseudo_caption", "doc", "one_mask"]


class Run:
    """What the stages leave behind: images, masks and a CSV."""

    def __init__(self, root) -> None:
        self.root = root
        self.rows = []
        (root / "images").mkdir()
        (root / "masks").mkdir()

    def add(
        self, name: str, seg_id: int, candidates: dict[str, float], one_mask: int = 0, image_id: str | None = None
    ) -> np.ndarray:
        image_id = name.rsplit(".")[0] if image_id is None else image_id
        (self.root / "images" / name).write_bytes(png(10, 12))
        mask = np.zeros((10, 12), bool)
        mask[seg_id : seg_id + 3, 2:7] = True
        self.mask(image_id, seg_id, mask)
        cells = len(candidates), json.dumps(list(candidates)), json.dumps(list(candidates.values())), one_mask
        self.rows.append([len(self.rows), name, image_id, seg_id, *cells])
        return mask

    def mask(self, image_id: str, seg_id: int, mask: np.ndarray) -> None:
        (self.root / "masks" / image_id).mkdir(exist_ok=True)
        cv2.imwrite(str(self.root / "masks" / image_id / f"{seg_id}.png"), mask.astype(np.uint8) * 255)

    def read(self, selection: ScoringConfig | None = None) -> list:
        with (self.root / "pairs.csv").open("w", newline="") as file:
            csv.writer(file).writerows([HEADER, *self.rows])
        return list(read_csv(self.root / "pairs.csv", self.root / "images", self.root / "masks", selection))


@pytest.fixture
def run(tmp_path) -> Run:
    return Run(tmp_path)


def test_rows_become_objects_with_their_own_mask(run):
    masks = [
        run.add("a.png", 4, {"a dog": 2.0, 'say "hi", 🎈': 0.5}),
        run.add("a.png", 0, {"a cat": 2.0}),
        run.add("b.png", 2, {"x": 3.0}),
    ]
    first, second = run.read()
    assert (first.image_id, first.name, first.height, first.width, first.split) == ("a", "a.png", 10, 12, "train")
    assert first.read() == png(10, 12)
    objects = [*first.objects, *second.objects]
    assert [(each.ref_id, each.object_id, each.seg_id) for each in objects] == [(0, 0, 4), (1, 1, 0), (2, 2, 2)]
    assert [each.sentences for each in objects] == [("a dog", 'say "hi", 🎈'), ("a cat",), ("x",)]
    assert [each.sent_ids for each in objects] == [(0, 1), (2,), (3,)]
    for each, mask in zip(objects, masks, strict=True):
        assert np.array_equal(each.mask.decode(), mask)


def test_the_doc_rule_keeps_what_passes_and_drops_masks_and_images_without_any(run):
    run.add("a.png", 0, {"good": 1.5, "bad": 1.2, "better": 2.0})
    run.add("a.png", 1, {"bad": 0.4})
    run.add("b.png", 0, {"bad": 0.4, "worse": 0.1})
    run.add("c.png", 0, {"third": 20.0, "first": 25.0, "second": 22.0}, one_mask=1)
    kept = {
        (each.image_id, one.seg_id): one.sentences for each in run.read(ScoringConfig(threshold=1.2)) for one in each.objects
    }
    assert kept == {("a", 0): ("good", "better"), ("c", 0): ("first", "second")}
    fallback = run.read(ScoringConfig(threshold=1.2, fallback="unfiltered"))
    assert [one.sentences for each in fallback for one in each.objects][1:3] == [("bad",), ("bad", "worse")]
    assert sum(len(one.sentences) for each in run.read() for one in each.objects) == 9


def test_masks_are_of_the_image_as_it_is_looked_at(run):
    file = io.BytesIO()
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(np.zeros((10, 12, 3), np.uint8)).save(file, "jpeg", exif=turned)
    assert upright_size(file.getvalue(), "x") == (12, 10)
    run.add("a.jpg", 0, {"x": 1.0})
    (run.root / "images" / "a.jpg").write_bytes(file.getvalue())
    with pytest.raises(UserError, match="12x10 pixels, but the image has 10x12"):
        run.read()
    run.mask("a", 0, np.eye(12, 10, dtype=bool))
    (only,) = run.read()
    assert (only.height, only.width, only.objects[0].mask.size) == (12, 10, (12, 10))


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("img_name", "../secret.png", "no path inside"),
        ("img_name", "link.png", "leads out of"),
        ("img_name", "none.png", "no such file"),
        ("img_id", "..", "not a valid folder name"),
        ("img_id", "a/../../x", "not a valid folder name"),
        ("img_id", "linked", "leads out of"),
        ("seg_id", 9, "a/9.png.*: no such file"),
        ("pseudo_caption", '["\\ud800"]', "surrogate"),
        ("doc", "[NaN]", "NaN"),
        ("index", "x", "column index"),
    ],
)
def test_rows_that_do_not_fit_are_named(run, column, value, message):
    run.add("a.png", 0, {"x": 2.0})
    (run.root / "secret.png").write_bytes(png(10, 12))
    (run.root / "images" / "link.png").symlink_to("../secret.png")
    (run.root / "masks" / "a").rename(run.root / "elsewhere")
    (run.root / "masks" / "linked").symlink_to("../elsewhere")
    (run.root / "masks" / "a").mkdir()
    (run.root / "masks" / "a" / "0.png").write_bytes((run.root / "elsewhere" / "0.png").read_bytes())
    assert run.read()
    run.rows[0][HEADER.index(column)] = value
    with pytest.raises(UserError, match=message) as caught:
        run.read()
    assert "pairs.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"no picture", png(10, 12)[:60], png(5, 5)])
def test_masks_and_images_that_are_damaged_are_named(run, data):
    run.add("a.png", 0, {"x": 2.0})
    whole = (run.root / "masks" / "a" / "0.png").read_bytes()
    (run.root / "masks" / "a" / "0.png").write_bytes(data)
    with pytest.raises(UserError, match=r"0\.png"):
        run.read()
    (run.root / "masks" / "a" / "0.png").write_bytes(whole)
    (run.root / "images" / "a.png").write_bytes(data)
    with pytest.raises(UserError, match=r"index 0, image 'a': '?a"):
        run.read()


def test_an_image_of_two_names_or_in_two_places_is_refused(run):
    run.add("a.png", 0, {"x": 2.0})
    run.add("b.png", 1, {"x": 2.0}, image_id="a")
    with pytest.raises(UserError, match="img_name"):
        run.read()
    run.rows[1][1] = "a.png"
    run.add("c.png", 1, {"x": 2.0})
    run.rows = [run.rows[0], run.rows[2], run.rows[1]]
    with pytest.raises(UserError, match="duplicate in split train"):
        run.read()


def test_missing_folders_are_named(tmp_path):
    for images, masks, option in (("none", ".", "--images"), (".", "none", "--masks")):
        with pytest.raises(UserError, match=option):
            read_csv(tmp_path / "x.csv", tmp_path / images, tmp_path / masks, None)
