"""What a stage's images and masks look like, without reading them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from pseudo_ris.config import CaptionGenerationConfig, SourceConfig
from pseudo_ris.formats.refs import INSTANCES
from pseudo_ris.io.lmdb_file import DATA_FILE
from pseudo_ris.records import ImageRecord
from pseudo_ris.storage.compaction.fingerprints import NO_STAMP, stamp_of
from pseudo_ris.storage.mask_store import MaskStore


def image_stamps(source: SourceConfig, *settings: str) -> Callable[[ImageRecord], bytes]:
    """A hash of an image's name, the size and time of its file and the settings; NO_STAMP when there is no such file.

    Of an image in an LMDB it is the LMDB that is looked at, once.
    """
    if source.lmdb:
        path = Path(source.lmdb)
        seen = _look_at(str(path / DATA_FILE if path.is_dir() else path))
        return lambda record: stamp_of(seen, record.name, settings) if seen else NO_STAMP

    def look(record: ImageRecord) -> bytes:
        seen = _look_at(f"{source.images}/{record.name}")
        return stamp_of(seen, record.name, settings) if seen else NO_STAMP

    return look


def image_and_mask_stamps(config: CaptionGenerationConfig, *settings: str) -> Callable[[ImageRecord], bytes]:
    """As image_stamps, with the image's masks; NO_STAMP where these are in files of their own, which have to be read."""
    images, masks = image_stamps(config, *settings), _mask_versions(config)

    def look(record: ImageRecord) -> bytes:
        image, version = images(record), masks(record)
        return stamp_of(image, version) if image != NO_STAMP and version is not None else NO_STAMP

    return look


def _mask_versions(config: CaptionGenerationConfig) -> Callable[[ImageRecord], object | None]:
    """What tells an image's masks from others: their key, where annotations are the masks their files' size and time."""
    path = Path(config.masks)
    if config.mask_format != "folder":
        seen = _look_at(str(path)), _look_at(str(path.with_name(INSTANCES)))
        return lambda record: seen
    store = MaskStore.existing(path)
    loose = store.loose_ids()
    return lambda record: None if record.image_id in loose else store.archive.key_of(record.image_id)


def _look_at(path: str) -> tuple[int, int] | None:
    """Size in bytes and time in ns of a file, None when there is none; a million are looked at."""
    try:
        seen = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return seen.st_size, seen.st_mtime_ns
