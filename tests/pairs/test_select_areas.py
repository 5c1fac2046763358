"""Areas of masks on disk."""

import json

import cv2
import numpy as np
import pytest

from pseudo_ris.errors import UserError
from pseudo_ris.pairs.selection import area_shares
from pseudo_ris.records import ImageRecord, MaskRecord
from pseudo_ris.storage.mask_store import MaskStore


def mask_of(pixels: int) -> np.ndarray:
    mask = np.zeros((10, 20), bool)
    mask.reshape(-1)[:pixels] = True
    return mask


@pytest.fixture
def folder(tmp_path):
    """Image 7 with masks 0 (5 pixels) and 3 (150 of 200), recorded; image "a__b" with mask 1 (20 pixels), a PNG only."""
    store = MaskStore(tmp_path / "masks")
    store.prepare()
    masks = [MaskRecord(seg_id, mask_of(area), (0, 0, 1, 1), 0.9, "sam") for seg_id, area in ((0, 5), (3, 150))]
    store.write(ImageRecord("7", "7.jpg", bytes), "key", masks, 10, 20)
    write_png(store.folder / "a__b" / "1.png", mask_of(20))
    return store.folder


def write_png(path, mask):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(cv2.imencode(".png", mask.astype(np.uint8) * 255)[1].tobytes())


def test_areas_come_from_the_record_or_else_from_the_mask_files(folder):
    shares = area_shares(folder, ["7", "a__b", "7"], [3, 1, 0])
    assert shares.tolist() == [0.75, 0.1, 0.025]


def test_recorded_areas_need_no_mask_file(folder):
    (folder / "7" / "3.png").unlink()
    assert area_shares(folder, ["7"], [3]).tolist() == [0.75]


@pytest.mark.parametrize(
    ("image_id", "seg_id", "message"),
    [
        ("7", 1, "7.json: has no mask 1; give the folder"),
        ("a__b", 2, "a__b/2.png.*: no such file"),
        ("8", 0, "8/0.png.*: no such file"),
        ("..", 0, "fix the pairs CSV"),
        ("/etc", 0, "fix the pairs CSV"),
        ("a\0b", 0, "fix the pairs CSV"),
        ("", 0, "fix the pairs CSV"),
        ("x" * 5000, 0, "cannot be a file|no such file"),
    ],
)
def test_a_mask_that_is_not_there_is_named(folder, image_id, seg_id, message):
    write_png(folder.parent / "0.png", mask_of(3))
    with pytest.raises(UserError, match=message):
        area_shares(folder, [image_id], [seg_id])


def test_links_out_of_the_folder_are_not_followed(folder, tmp_path):
    write_png(tmp_path / "elsewhere" / "0.png", mask_of(3))
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "meta.json").write_text((folder / "_meta" / "7.json").read_text())
    (folder / "_meta" / "link.json").symlink_to(tmp_path / "meta.json")
    with pytest.raises(UserError, match="leads out of"):
        area_shares(folder, ["link"], [0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": [10]}, "size is not"),
        ({"size": [0, 20]}, "size is not"),
        ({"size": [True, 20]}, "size is not"),
        ({"size": None}, "size is not"),
        ({"masks": None}, "has no list masks"),
        ({"masks": [1]}, "masks 0"),
        ({"masks": [{"seg_id": "0", "area": 1}]}, "seg_id"),
        ({"masks": [{"seg_id": 0, "area": 0.5}]}, "area"),
        ({"masks": [{"seg_id": 0, "area": 201}]}, "area of mask 0 is not between 0 and 200"),
        ({"masks": [{"seg_id": 0, "area": -1}]}, "area of mask 0"),
    ],
)
def test_a_damaged_record_is_named(folder, change, message):
    meta = folder / "_meta" / "7.json"
    meta.write_text(json.dumps(json.loads(meta.read_text()) | change))
    with pytest.raises(UserError, match=f"7.json.*{message}"):
        area_shares(folder, ["7"], [0])


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"[" * 100_000, b"\xff", b"3"])
def test_a_record_that_is_none_is_named(folder, content):
    (folder / "_meta" / "7.json").write_bytes(content)
    with pytest.raises(UserError, match=r"7\.json"):
        area_shares(folder, ["7"], [0])


def test_a_damaged_png_is_named(folder):
    (folder / "a__b" / "1.png").write_bytes(b"no PNG")
    with pytest.raises(UserError, match=r"a__b/1\.png: .*not a readable"):
        area_shares(folder, ["a__b"], [1])


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match=r"--masks .*: no such folder"):
        area_shares(tmp_path / "masks", ["7"], [0])
