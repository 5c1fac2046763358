"""The original tools' LMDBs, and what ETRIS's loader makes of them."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from pseudo_ris.formats.etris import read_anns, read_lmdb, write_lmdb
from pseudo_ris.formats.record_lmdb import KEYS, LENGTH, SERIALIZATIONS, RecordLmdb
from pseudo_ris.io.lmdb_file import LmdbFile
from pseudo_ris.ris.data.samples import PairsDataset
from pseudo_ris.ris.data.targets import targets_of_images

LEGACY = Path(__file__).parent / "golden" / "legacy_lmdb"

WRAPPED = 8
"""The record whose mask has 254: its polygons overlap, and the tools add up 255 and 255 in 8 bits."""
# One grey level: OpenCV 5 places bicubic samples more finely than the fixture's OpenCV 4.11, with which they differ by 1e-7.
LEVEL = 1 / 255 / 0.26130258


def expected(name: str) -> dict:
    return json.loads((LEGACY / "expected.json").read_text())[name]["keys"]


def digest(data: bytes) -> dict:
    return {"bytes": len(data), "sha1": hashlib.sha1(data).hexdigest()}


@pytest.fixture(params=["etris_train.lmdb", "pseudo_ris_train.lmdb", "cris_pickle_train.lmdb"])
def name(request) -> str:
    return request.param


def test_every_record_is_read_completely(name):
    records, wanted = RecordLmdb(LEGACY / name), expected(name)
    assert [key.decode() for key in records.keys] == wanted["__keys__"]["record"]
    assert len(records) == wanted["__len__"]["record"] == 12
    for key, record in zip(records.keys, records, strict=True):
        fields = record.as_fields()
        assert list(fields) == wanted[key.decode()]["field_order"]
        assert {field: type(value).__name__ for field, value in fields.items()} == wanted[key.decode()]["types"]
        assert {**fields, "img": digest(record.img), "mask": digest(record.mask)} == wanted[key.decode()]["record"]


def test_our_bytes_of_every_value_are_the_original_tools(name):
    file, records = LmdbFile(LEGACY / name), RecordLmdb(LEGACY / name)
    serialize = SERIALIZATIONS["pickle" if "pickle" in name else "pyarrow"]
    values = dict(zip(records.keys, (record.as_fields() for record in records), strict=True))
    for key, value in {**values, KEYS: records.keys, LENGTH: len(records)}.items():
        assert serialize(value) == file.get(key), key


def test_a_set_that_was_read_is_written_as_it_was(tmp_path):
    """Through pairs: masks are encoded anew. Record 8 has 254 in its mask, which becomes 255."""
    path = LEGACY / "pseudo_ris_train.lmdb"
    write_lmdb(tmp_path / "out", read_lmdb(path))
    before, after = LmdbFile(path), LmdbFile(tmp_path / "out" / path.name)
    keys = [str(number).encode() for number in range(12)]
    assert [number for number, key in enumerate(keys) if before.get(key) != after.get(key)] == [WRAPPED]
    assert before.get(KEYS) == after.get(KEYS)
    assert before.get(LENGTH) == after.get(LENGTH)
    written, read = (RecordLmdb(place.path)[WRAPPED] for place in (after, before))
    assert {**written.as_fields(), "mask": b""} == {**read.as_fields(), "mask": b""}


def test_anns_and_lmdbs_of_one_set_hold_the_same(name):
    folder = "anns_pseudo_ris" if name.startswith("pseudo") else "anns_etris"
    images = list(read_anns(LEGACY / folder / "train.json", LEGACY / "images", LEGACY / "masks"))
    others = list(read_lmdb(LEGACY / name))
    assert [image.image_id for image in images] == [str(900000 + number) for number in range(1, 7)]
    assert [(image.image_id, image.name, image.height, image.width) for image in images] == [
        (image.image_id, image.name, image.height, image.width) for image in others
    ]
    for image, other in zip(images, others, strict=True):
        assert image.read() == other.read() == (LEGACY / "images" / image.name).read_bytes()
        looks = [[(o.object_id, o.category_id, o.mask, o.sentences) for o in each.objects] for each in (image, other)]
        assert looks[0] == looks[1]


def test_samples_are_those_of_etris():
    """Measured: means 7e-5, norm 7e-5 (relative), sums of masks 3e-5 (relative; the same with OpenCV 4.11)."""
    etris = json.loads((LEGACY / "etris_refdataset_416.json").read_text())
    targets = targets_of_images(read_lmdb(LEGACY / "etris_train.lmdb"))
    training, validation = PairsDataset(targets), PairsDataset(targets, "val")
    assert len(training) == len(etris["train"]) == len(etris["val"])
    for wanted in etris["train"]:
        sample = training[wanted["index"]]
        picture, mask = sample["image"].double().numpy(), sample["mask"].double().numpy()
        np.testing.assert_allclose(picture.mean((1, 2)), wanted["img_mean"], atol=1e-4)
        np.testing.assert_allclose(np.linalg.norm(picture), wanted["img_l2"], rtol=1e-4)
        np.testing.assert_allclose(picture[0, 206:210, 206:210], wanted["img_center_4x4_ch0"], atol=4 * LEVEL)
        # the wrapped mask lacks 1/255 where its polygons overlap, which we read as mask
        np.testing.assert_allclose(mask.sum(), wanted["mask_sum"], rtol=2e-3 if wanted["index"] == WRAPPED else 5e-5)
        assert mask.max() == wanted["mask_max"]
        assert sample["tokens"].tolist() in wanted["tokens_per_sentence"]
        assert validation[wanted["index"]]["tokens"].tolist() == wanted["tokens_per_sentence"]
    for wanted in etris["val"]:
        sample = validation[wanted["index"]]
        assert sample["tokens"][0].tolist() == wanted["tokens"]
        assert list(sample["mask"].shape) == wanted["ori_size"]
        np.testing.assert_allclose(sample["inverse"].numpy(), wanted["inverse"], atol=1e-9)
