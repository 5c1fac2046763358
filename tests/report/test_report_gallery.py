"""Thumbnails, outlines and duplicates."""

from __future__ import annotations

import re

import cv2
import numpy as np
import pytest
from report_data import SmallSet, block

from pseudo_ris.report.gallery import THUMBNAIL, ImageRows, evenly, images_of, outline_of, twins_of, view_images


def filled(path: str, height: int, width: int) -> np.ndarray:
    """The pixels an SVG path of our kind covers, by the even-odd rule."""
    polygons = []
    for part in path.split("M")[1:]:
        numbers = [int(number) for number in re.findall(r"-?\d+", part)]
        polygons.append(np.cumsum(np.array(numbers).reshape(-1, 2), axis=0).astype(np.int32))
    canvas = np.zeros((height, width), np.uint8)
    cv2.fillPoly(canvas, polygons, 1)
    return canvas.astype(bool)


def test_outline_covers_the_mask():
    y, x = np.mgrid[:120, :160]
    mask = ((x - 70) / 40) ** 2 + ((y - 60) / 30) ** 2 < 1
    outline = outline_of(mask, 160, 120)
    drawn = filled(outline.path, 120, 160)
    assert (drawn & mask).sum() / (drawn | mask).sum() > 0.97
    assert mask[outline.y, outline.x]


def test_outline_keeps_a_hole_and_follows_the_thumbnails_scale():
    mask = np.zeros((120, 160), bool)
    mask[20:100, 20:140] = True
    mask[40:80, 60:100] = False
    drawn = filled(outline_of(mask, 80, 60).path, 60, 80)
    assert drawn[15, 15]
    assert not drawn[30, 40]
    assert not drawn[5, 5]


def test_a_thin_mask_still_has_an_outline():
    mask = np.zeros((2000, 2000), bool)
    mask[1000, 500:1500] = True
    assert outline_of(mask, 320, 320).path.startswith("M")


def test_twins_are_the_pairs_over_the_iou():
    rng = np.random.default_rng(0)
    first = rng.random((50, 70)) < 0.5
    nearly = first ^ (rng.random(first.shape) < 0.02)
    masks = np.stack([first, nearly, ~first, first])
    ids = [4, 7, 8, 30]

    def iou(one, other):
        return (one & other).sum() / (one | other).sum()

    slow = [tuple(ids[k] for k in range(4) if k != index and iou(masks[index], masks[k]) > 0.9) for index in range(len(masks))]
    assert slow[0] == (7, 30)
    assert twins_of(masks, ids) == slow


@pytest.mark.parametrize(("count", "most"), [(10, 3), (3, 10), (10, 10), (0, 5), (7, 0)])
def test_evenly_takes_no_more_than_asked_and_spreads_them(count, most):
    chosen = sorted(evenly(count, most))
    assert len(chosen) == min(count, most)
    assert all(0 <= index < count for index in chosen)
    assert not chosen or np.ptp(np.diff([*chosen, count])) <= 1


def views_of(small, shown, rows=None):
    rows = rows or {part.image_name: ImageRows(part.image_id, tuple(m.seg_id for m in part.masks)) for part in small.parts}
    rows = {name: of for name, of in rows.items() if of.seg_ids}
    records, unseen = images_of(small.images, small.masks, rows)
    return list(view_images(small.masks, records, rows, shown)), unseen


def test_views_have_areas_twins_and_pictures(tmp_path):
    views, unseen = views_of(SmallSet(tmp_path), shown={0})
    assert [view.name for view in views] == ["a.png", "b.png", "c.png"]
    assert unseen == 0
    assert not any(view.problems for view in views)
    first = views[0]
    assert [mask.seg_id for mask in first.masks] == [0, 1, 2]
    assert first.masks[0].share == block(5, 25).mean()
    assert [mask.twins for mask in first.masks] == [(1,), (0,), ()]
    picture = cv2.imdecode(np.frombuffer(first.thumbnail.jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (first.thumbnail.height, first.thumbnail.width, 3) == (60, 80, 3)
    assert abs(picture.astype(int) - (150, 120, 90)).max() < 8
    assert views[1].thumbnail is None
    assert views[1].masks[0].outline is None


def test_large_images_become_thumbnails(tmp_path):
    small = SmallSet(tmp_path)
    cv2.imwrite(str(small.images / "c.png"), np.zeros((700, 1400, 3), np.uint8))
    thumbnail = views_of(small, shown={2})[0][2].thumbnail
    assert (thumbnail.width, thumbnail.height) == (THUMBNAIL, THUMBNAIL // 2)


def test_what_does_not_fit_is_told_and_the_rest_goes_on(tmp_path):
    small = SmallSet(tmp_path, further_images=2)
    (small.images / "b.png").unlink()
    (small.images / "c.png").write_bytes(b"no image")
    (small.masks / "a" / "7.png").write_bytes((small.masks / "a" / "0.png").read_bytes())
    (small.masks / "more_000" / "1.png").unlink()
    (small.images / "new.png").write_bytes((small.images / "a.png").read_bytes())
    views, unseen = views_of(small, shown=range(10))
    told = {view.name: " ".join(view.problems) for view in views}
    assert unseen == 1
    assert "7.png: is a mask without a row" in told["a.png"]
    assert "not in the folder" in told["b.png"]
    assert "not a readable image" in told["c.png"]
    assert "more_000/1.png: mask file is missing" in told["more_000.png"]
    assert told["more_001.png"] == ""
    assert len(next(view for view in views if view.name == "a.png").masks) == 4


def test_masks_without_rows_are_told(tmp_path):
    views, _ = views_of(SmallSet(tmp_path), shown=(), rows={"b.png": ImageRows("b", (0,))})
    assert {view.name: view.problems for view in views} == {
        "a.png": ("a.png: has 3 masks but no row in the CSV",),
        "b.png": (),
        "c.png": (),
    }


@pytest.mark.parametrize("image_id", ["../masks/b", "..", "/etc", "_meta", ""])
def test_no_folder_outside_the_masks_is_opened(tmp_path, image_id):
    views, _ = views_of(SmallSet(tmp_path), shown=(), rows={"b.png": ImageRows(image_id, (0,))})
    assert views[0].masks == ()
    assert "b.png: image id" in views[0].problems[0]


@pytest.mark.parametrize("name", ["../images/a.png", "/etc/passwd"])
def test_no_image_outside_the_folder_is_opened(tmp_path, name):
    views, _ = views_of(SmallSet(tmp_path), shown={0}, rows={name: ImageRows("a", (0,))})
    assert views[0].thumbnail is None
    assert "not in the folder" in views[0].problems[0]
