"""Fingerprints of a stage's images and masks from file size and time, without reading the files."""

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


def image_fingerprints(source: SourceConfig, *settings: str) -> Callable[[ImageRecord], bytes]:
    """Returns a function that hashes an image's name, its file's size and time, and the settings; NO_STAMP for missing files.

    For images in an LMDB it uses the size and time of the LMDB, read once.
    """
    if source.lmdb:
        path = Path(source.lmdb)
        seen = _look_at(str(path / DATA_FILE if path.is_dir() else path))
        return lambda record: stamp_of(seen, record.name, settings) if seen else NO_STAMP

    def look(record: ImageRecord) -> bytes:
        seen = _look_at(f"{source.images}/{record.name}")
        return stamp_of(seen, record.name, settings) if seen else NO_STAMP

    return look


def image_and_mask_fingerprints(config: CaptionGenerationConfig, *settings: str) -> Callable[[ImageRecord], bytes]:
    """Like image_fingerprints, but includes the masks; NO_STAMP if the masks are loose files, which would have to be read."""
    images, masks = image_fingerprints(config, *settings), _mask_versions(config)

    def look(record: ImageRecord) -> bytes:
        image, version = images(record), masks(record)
        return stamp_of(image, version) if image != NO_STAMP and version is not None else NO_STAMP

    return look


def _mask_versions(config: CaptionGenerationConfig) -> Callable[[ImageRecord], object | None]:
    """Returns a function that identifies an image's masks by their archive key, or by size and time of the annotation files."""
    path = Path(config.masks)
    if config.mask_format != "folder":
        seen = _look_at(str(path)), _look_at(str(path.with_name(INSTANCES)))
        return lambda record: seen
    store = MaskStore.existing(path)
    loose = store.loose_ids()
    return lambda record: None if record.image_id in loose else store.archive.key_of(record.image_id)


def _look_at(path: str) -> tuple[int, int] | None:
    """Returns a file's size in bytes and modification time in ns; None if it is missing."""
    try:
        seen = os.stat(path)  # noqa: PTH116 - faster than Path.stat for a million files
    except OSError:
        return None
    return seen.st_size, seen.st_mtime_ns
