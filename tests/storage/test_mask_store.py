"""Masks on disk: the contract readers count on."""

import json
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.records import ImageRecord, MaskRecord
from pseudo_ris.runtime.failures import write_failures
from pseudo_ris.runtime.image_loop import Failure
from pseudo_ris.runtime.shares import ALL, Shard
from pseudo_ris.storage.mask_store import MaskStore

RECORD = ImageRecord("a__b", "a/b.jpg", Path("a/b.jpg").read_bytes)


def mask(x0: int, x1: int, shape=(12, 16)) -> np.ndarray:
    result = np.zeros(shape, bool)
    result[2:7, x0:x1] = True
    return result


def record_of(seg_id: int, pixels: np.ndarray) -> MaskRecord:
    return MaskRecord(seg_id, pixels, (0, 2, 4, 7), 0.9, "sam")


@pytest.fixture
def store(tmp_path) -> MaskStore:
    store = MaskStore(tmp_path / "masks")
    store.prepare()
    return store


def test_masks_come_back_and_the_folder_holds_nothing_else(store):
    store.write(RECORD, "k", [record_of(0, mask(0, 4)), record_of(1, mask(5, 6))], 12, 16)
    assert sorted(path.name for path in (store.folder / "a__b").iterdir()) == ["0.png", "1.png"]
    assert set(np.unique(cv2.imread(str(store.folder / "a__b" / "0.png"), cv2.IMREAD_UNCHANGED))) == {0, 255}
    seg_ids, masks = store.read(RECORD).decode(12, 16)
    assert seg_ids == [0, 1]
    assert np.array_equal(masks, [mask(0, 4), mask(5, 6)])
    meta = json.loads((store.folder / "_meta" / "a__b.json").read_text())
    data = (store.folder / "a__b" / "1.png").read_bytes()
    expected = {"seg_id": 1, "box": [0, 2, 4, 7], "area": 5, "score": 0.9, "source": "sam"}
    assert meta["masks"][1] == {**expected, "bytes": len(data), "crc32": zlib.crc32(data)}


def test_result_is_current_only_for_its_key(store):
    assert not store.is_current(RECORD, "k")
    store.write(RECORD, "k", [record_of(0, mask(0, 4))], 12, 16)
    assert store.is_current(RECORD, "k")
    assert not store.is_current(RECORD, "other")
    (store.folder / "_meta" / "a__b.json").write_text('{"key": "k"')
    assert not store.is_current(RECORD, "k")


def test_result_is_not_current_when_a_png_is_cut_short_or_gone(store):
    store.write(RECORD, "k", [record_of(0, mask(0, 4)), record_of(1, mask(5, 6))], 12, 16)
    path = store.folder / "a__b" / "1.png"
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    assert not store.is_current(RECORD, "k")
    path.unlink()
    assert not store.is_current(RECORD, "k")
    path.write_bytes(data)
    assert store.is_current(RECORD, "k")


def damage(path: Path) -> None:
    """Changes a byte in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_png_damaged_at_equal_size_is_made_again(store):
    masks = [record_of(0, mask(0, 4)), record_of(1, mask(5, 6))]
    store.write(RECORD, "k", masks, 12, 16)
    before = store.read(RECORD)
    damage(store.folder / "a__b" / "1.png")
    with pytest.raises(BadInputError, match=r"a__b/1\.png: not a readable PNG; run generate_masks again"):
        store.read(RECORD).decode(12, 16)
    assert not store.is_current(RECORD, "k")
    assert store.loose_row("a__b") is None, "not to be put into a shard"
    store.write(RECORD, "k", masks, 12, 16)
    assert store.is_current(RECORD, "k")
    assert store.loose_row("a__b").files == tuple((f"{seg_id}.png", data) for seg_id, data in before.files.items())


def test_masks_of_earlier_versions_which_noted_no_sizes_and_checksums_are_current(store):
    store.write(RECORD, "k", [record_of(0, mask(0, 4))], 12, 16)
    path = store.folder / "_meta" / "a__b.json"
    meta = json.loads(path.read_text())
    for field in ("crc32", "bytes"):
        del meta["masks"][0][field]
        path.write_text(json.dumps(meta))
        assert store.is_current(RECORD, "k")
    damage(store.folder / "a__b" / "0.png")
    assert not store.is_current(RECORD, "k"), "by the PNG's own checksums"


def test_an_image_on_which_stage_1_failed_says_why(store):
    failure = Failure(RECORD.image_id, RECORD.name, "a/b.jpg: is empty; replace the file", "k")
    other = Failure("x", "x.jpg", "x.jpg: is bad", "k")
    for name in ("failures.csv", "failures.1-of-2.csv"):
        write_failures(store.folder / name, [other, failure])
        with pytest.raises(BadInputError) as caught:
            MaskStore(store.folder).read(RECORD)
        assert "generate_masks failed on this image (a/b.jpg: is empty; replace the file)" in str(caught.value)
        assert "run generate_masks again" in str(caught.value)
        (store.folder / name).unlink()
    (store.folder / "failures.csv").write_text("somebody's own\n")
    with pytest.raises(BadInputError, match=r"no masks in .*run generate_masks"):
        store.read(RECORD)


def test_a_folder_of_other_files_is_never_replaced_by_masks(store):
    foreign = store.folder / "a__b" / "photo.jpg"
    foreign.parent.mkdir()
    foreign.touch()
    with pytest.raises(BadInputError, match=r"a__b: exists and holds 'photo\.jpg', which is no mask; move it"):
        store.write(RECORD, "k", [record_of(0, mask(0, 4))], 12, 16)
    assert foreign.exists()
    foreign.rename(foreign.with_name(".DS_Store"))
    (foreign.parent / "7.png").touch()
    store.write(RECORD, "k", [record_of(0, mask(0, 4))], 12, 16)
    assert [path.name for path in foreign.parent.iterdir()] == ["0.png"]


@pytest.mark.parametrize("masks", ["7", "[7]", "[{}]", '[{"seg_id": []}]', "null"])
def test_a_strange_meta_file_makes_nothing_current(store, masks):
    (store.folder / "_meta" / "a__b.json").write_text(f'{{"key": "k", "masks": {masks}}}')
    assert not store.is_current(RECORD, "k")


def test_image_without_masks_is_recorded_and_has_no_folder(store):
    store.write(RECORD, "k", [record_of(0, mask(0, 4))], 12, 16)
    store.write(RECORD, "k2", [], 12, 16)
    assert not (store.folder / "a__b").exists()
    assert store.is_current(RECORD, "k2")
    seg_ids, masks = store.read(RECORD).decode(12, 16)
    assert seg_ids == []
    assert masks.shape == (0, 12, 16)


def test_blank_masks_are_skipped_and_numbers_stay(store):
    full = np.ones((12, 16), bool)
    pixels = [~full, mask(0, 4), full, mask(8, 9)]
    store.write(RECORD, "k", [record_of(number, each) for number, each in enumerate(pixels)], 12, 16)
    seg_ids, masks = store.read(RECORD).decode(12, 16)
    assert seg_ids == [1, 3]
    assert np.array_equal(masks, [mask(0, 4), mask(8, 9)])


def test_ten_masks_are_ordered_by_number_not_by_name(store):
    store.write(RECORD, "k", [record_of(n, mask(n, n + 1)) for n in range(11)], 12, 16)
    seg_ids, masks = store.read(RECORD).decode(12, 16)
    assert seg_ids == list(range(11))
    assert masks[10, 2, 10]


def test_masks_from_elsewhere_need_no_meta(store):
    (store.folder / "a__b").mkdir()
    cv2.imwrite(str(store.folder / "a__b" / "7.png"), mask(0, 4).astype(np.uint8) * 255)
    assert store.read(RECORD).decode(12, 16)[0] == [7]


def test_bad_masks_name_the_file(store):
    with pytest.raises(BadInputError, match=r"no masks in .*run generate_masks"):
        store.read(RECORD)
    store.write(RECORD, "k", [record_of(0, mask(0, 4)), record_of(1, mask(5, 6))], 12, 16)
    with pytest.raises(BadInputError, match=r"a__b/0.png: 16x12 pixels, its image has 20x12"):
        store.read(RECORD).decode(12, 20)
    (store.folder / "a__b" / "1.png").write_bytes(b"nonsense")
    with pytest.raises(BadInputError, match=r"a__b/1.png: not a readable PNG"):
        store.read(RECORD).decode(12, 16)
    (store.folder / "a__b" / "1.png").unlink()
    with pytest.raises(BadInputError, match=r"a__b/1.png: mask file is missing"):
        store.read(RECORD)
    store.write(RECORD, "k", [record_of(0, mask(0, 0))], 12, 16)
    with pytest.raises(BadInputError, match="all 1 masks are blank"):
        store.read(RECORD).decode(12, 16)
    (store.folder / "a__b" / "notes.png").touch()
    with pytest.raises(BadInputError, match="named by a number"):
        store.read(RECORD)


def test_missing_mask_folder_is_an_error_of_the_run(tmp_path):
    with pytest.raises(UserError, match="run generate_masks"):
        MaskStore.existing(tmp_path / "missing")


def test_only_a_run_on_all_images_clears_leftovers(tmp_path):
    store = MaskStore(tmp_path / "masks")
    leftovers = [store.folder / ".x.tmp", store.folder / "_meta" / ".x.json.tmp"]
    leftovers[0].mkdir(parents=True)
    leftovers[1].parent.mkdir()
    leftovers[1].touch()
    with store.working(Shard(0, 2)), store.working(Shard(1, 2)):
        assert all(path.exists() for path in leftovers)
    with store.working(ALL):
        assert not any(path.exists() for path in leftovers)


def test_masks_are_not_read_while_they_are_made(store):
    with store.working(Shard(1, 2)), pytest.raises(UserError, match="another run is at work"), store.reading():
        pass
    with store.reading(), store.reading(), pytest.raises(UserError, match="another run is at work"), store.working(ALL):
        pass
