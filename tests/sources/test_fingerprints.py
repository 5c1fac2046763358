"""What tells an image that has changed from one that has not."""

import os

import numpy as np
import pytest

from pseudo_ris.config import CaptionGenerationConfig, SourceConfig
from pseudo_ris.io.images import list_images
from pseudo_ris.records import MaskRecord
from pseudo_ris.sources.fingerprints import image_and_mask_fingerprints, image_fingerprints
from pseudo_ris.storage.compaction.fingerprints import NO_STAMP
from pseudo_ris.storage.compaction.rows import Row, write_shard
from pseudo_ris.storage.mask_store import MaskStore


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in "ab":
        (folder / f"{name}.jpg").write_bytes(b"an image")
        os.utime(folder / f"{name}.jpg", ns=(5, 5))
    return folder


def test_size_time_name_and_settings_count(images):
    a, b = list_images(images)
    look = image_fingerprints(SourceConfig(images=str(images)), "s")
    stamps = [look(a), look(b), image_fingerprints(SourceConfig(images=str(images)), "t")(a)]
    os.utime(images / "a.jpg", ns=(5, 6))
    stamps.append(look(a))
    (images / "a.jpg").write_bytes(b"a larger image")
    os.utime(images / "a.jpg", ns=(5, 5))
    stamps.append(look(a))
    assert len({*stamps, NO_STAMP}) == 6
    (images / "a.jpg").write_bytes(b"an image")
    os.utime(images / "a.jpg", ns=(7, 5))
    assert look(a) == stamps[0]
    (images / "a.jpg").unlink()
    assert look(a) == NO_STAMP


def test_of_an_lmdb_the_file_counts(images, tmp_path):
    a, b = list_images(images)
    (tmp_path / "db").mkdir()
    (tmp_path / "db" / "data.mdb").write_bytes(b"one")
    before = image_fingerprints(SourceConfig(lmdb=str(tmp_path / "db")))
    assert len({before(a), before(b), NO_STAMP}) == 3
    assert image_fingerprints(SourceConfig(lmdb=str(tmp_path / "db" / "data.mdb")))(a) == before(a)
    (tmp_path / "db" / "data.mdb").write_bytes(b"two, longer")
    assert image_fingerprints(SourceConfig(lmdb=str(tmp_path / "db")))(a) != before(a)


def test_masks_count_by_their_key_and_those_in_files_are_not_known(images, tmp_path):
    a, b = list_images(images)
    config = CaptionGenerationConfig(images=str(images), masks=str(tmp_path / "masks"))
    store = MaskStore(tmp_path / "masks")
    store.prepare()
    store.write(b, "k", [MaskRecord(0, np.eye(9, dtype=bool), (0, 0, 9, 9), 0.5, "sam")], 9, 9)
    shard = store.archive.folder / "000000.parquet"
    write_shard(shard, [Row("a", "a.jpg", "k", "{}"), Row("b", "b.jpg", "k", "{}")])
    before = image_and_mask_fingerprints(config)
    assert before(a) != NO_STAMP == before(b)
    write_shard(shard, [Row("a", "a.jpg", "k2", "{}")])
    assert image_and_mask_fingerprints(config)(a) not in (before(a), NO_STAMP)
    os.utime(images / "a.jpg", ns=(5, 6))
    assert image_and_mask_fingerprints(config)(a) != image_and_mask_fingerprints(config, "other")(a)


def test_of_annotations_the_file_counts(images, tmp_path):
    (a, _), path = list_images(images), tmp_path / "instances.json"
    path.write_text("{}")
    config = CaptionGenerationConfig(images=str(images), masks=str(path), mask_format="coco")
    before = image_and_mask_fingerprints(config)(a)
    assert before == image_and_mask_fingerprints(config)(a) != NO_STAMP
    path.write_text("{ }")
    assert image_and_mask_fingerprints(config)(a) != before
