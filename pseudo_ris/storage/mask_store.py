"""Pseudo masks on disk: `<masks>/<image id>/<seg id>.png`, and beside them `<masks>/_meta/<image id>.json`.

The folder of an image holds its PNGs and nothing else (readers count files). The meta file exists also for images without
masks; it is written last, so masks without it are not finished. With a `shard_size` the masks of finished images are rows of
`<masks>/_meta/shards/*.parquet` instead, meta and PNGs.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.io.files import prepare_folder, replace_folder, write_atomic, writing
from pseudo_ris.io.image_ids import META
from pseudo_ris.io.images import read_bytes
from pseudo_ris.io.mask_png import decode_mask, encode_mask, is_sound_png
from pseudo_ris.io.safe_paths import file_inside
from pseudo_ris.records import ImageRecord, MaskRecord
from pseudo_ris.runtime.failures import all_failures
from pseudo_ris.runtime.shares import Shard, reading_from, working_in
from pseudo_ris.storage.compaction.archive import SHARDS, Archive, current_folder
from pseudo_ris.storage.compaction.rows import Row

META_SUFFIX = ".json"


def require_loose(masks: Path) -> None:
    """Raises UserError when the masks are in shards, for code that reads `<masks>/<image id>/<seg id>.png` itself."""
    if current_folder(masks / META / SHARDS).exists():
        raise UserError(f"--masks {masks}: its masks are in shards; `pseudo-ris unshard --masks {masks}` makes files of them")


@dataclass(frozen=True)
class StoredMasks:
    """The mask files of one image as read: seg id -> PNG bytes, ordered by seg id."""

    image_id: str
    files: dict[int, bytes]

    def flat(self) -> list[int | bytes]:
        """Seg ids and file contents, for hashing."""
        return [item for pair in self.files.items() for item in pair]

    def decode(self, height: int, width: int) -> tuple[list[int], np.ndarray]:
        """Returns seg ids and masks bool [N, H, W], without blank masks (all 0 or all 1).

        Raises BadInputError when a file is no mask of this size, or when masks exist and all are blank.
        """
        masks = {seg_id: _decode(data, f"{self.image_id}/{seg_id}.png") for seg_id, data in self.files.items()}
        for seg_id, mask in masks.items():
            if mask.shape != (height, width):
                raise BadInputError(
                    f"{self.image_id}/{seg_id}.png: {mask.shape[1]}x{mask.shape[0]} pixels, its image has "
                    f"{width}x{height}; run generate_masks again"
                )
        return without_blank(masks, height, width, self.image_id)


def without_blank(masks: Mapping[int, np.ndarray], height: int, width: int, name: str) -> tuple[list[int], np.ndarray]:
    """Returns seg ids and masks bool [N, H, W] of the masks of image `name` that are neither all 0 nor all 1.

    Raises BadInputError when all masks of the image are blank.
    """
    kept = {seg_id: mask for seg_id, mask in masks.items() if mask.any() and not mask.all()}
    if masks and not kept:
        raise BadInputError(f"{name}: all {len(masks)} masks are blank (all 0 or all 1)")
    return list(kept), np.stack(list(kept.values())) if kept else np.zeros((0, height, width), bool)


class MaskStore:
    """Writes and reads the pseudo masks below `folder`. An image's files, if complete, take precedence over its row."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.archive = Archive(folder / META / SHARDS)

    @classmethod
    def existing(cls, folder: Path) -> MaskStore:
        """Returns the store of an existing folder. Raises UserError."""
        if folder.is_file():
            raise UserError(f"--masks {folder}: is a file; if it holds annotations, add --mask_format coco or refer")
        if not folder.is_dir():
            raise UserError(f"--masks {folder}: no such folder; run generate_masks/cutler_sam_masks.py first")
        return cls(folder)

    def prepare(self, clear: bool = True) -> None:
        """Creates the folders; `clear` removes the temporary files of a killed run. Raises UserError."""
        prepare_folder(self.folder / META, clear)
        prepare_folder(self.folder, clear)

    @contextmanager
    def working(self, shard: Shard) -> Iterator[None]:
        """Prepares and locks the folder for a run of stage 1. Raises UserError when another run uses it."""
        with working_in(self.folder, shard):
            self.prepare(clear=shard.is_whole)
            yield

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Locks the folder for a run of stage 2, which must not read masks while they are replaced.

        Raises UserError when a run of stage 1 uses the folder.
        """
        with reading_from(self.folder):
            yield

    def is_current(self, record: ImageRecord, key: str) -> bool:
        """Returns True if complete, undamaged masks of the image exist that were made from `key`. Reads the PNGs."""
        meta = self._whole_meta(record.image_id)
        if meta is None:
            return self.archive.key_of(record.image_id) == key
        return meta.get("key") == key and self._read_undamaged(record.image_id, meta) is not None

    def is_known(self, record: ImageRecord) -> bool:
        """Returns True if stage 1 has recorded a result for the image, with or without masks."""
        return self._read_meta(record.image_id) is not None or self.archive.key_of(record.image_id) is not None

    def write(self, record: ImageRecord, key: str, masks: Sequence[MaskRecord], height: int, width: int) -> None:
        """Replaces the masks of an image. If interrupted, the image counts as not done."""
        files = {mask.seg_id: encode_mask(mask.mask) for mask in masks}
        entries = [
            {
                "seg_id": mask.seg_id,
                "box": list(mask.box),
                "area": int(mask.mask.sum()),
                "score": round(mask.score, 6),
                "source": mask.source,
                "bytes": len(files[mask.seg_id]),
                "crc32": zlib.crc32(files[mask.seg_id]),
            }
            for mask in masks
        ]
        meta = {"image_id": record.image_id, "image": record.name, "size": [height, width], "key": key, "masks": entries}
        text = json.dumps(meta, ensure_ascii=False, indent=1) + "\n"
        self._put(record.image_id, {f"{seg_id}.png": data for seg_id, data in files.items()}, text)

    def read(self, record: ImageRecord) -> StoredMasks:
        """Returns the mask files of an image; none when stage 1 found no object. Also works for folders of PNGs from elsewhere.

        Raises BadInputError when the image has neither masks nor a record of having none, when a file is missing or its shard
        is damaged.
        """
        meta = self._whole_meta(record.image_id)
        if meta is None and (row := self.archive.find(record.image_id)) is not None:
            return StoredMasks(record.image_id, _files_of(row))
        folder = self.folder / record.image_id
        meta = meta or self._read_meta(record.image_id)
        paths = sorted(folder.glob("*.png")) if folder.is_dir() else []
        strange = [path.name for path in paths if not _is_mask(path)]
        if strange:
            raise BadInputError(f"{record.image_id}/{strange[0]}: a mask file is named by a number; rename or remove it")
        by_id = {int(path.stem): path for path in paths}
        if meta is None and not by_id:
            raise BadInputError(f"{record.name}: {self._why_none(record.image_id)}")
        missing = sorted({entry["seg_id"] for entry in (meta or {}).get("masks", [])} - by_id.keys())
        if missing:
            raise BadInputError(f"{record.image_id}/{missing[0]}.png: mask file is missing; run generate_masks again")
        return StoredMasks(record.image_id, {seg_id: read_bytes(by_id[seg_id]) for seg_id in sorted(by_id)})

    def read_png(self, image_id: str, seg_id: int) -> bytes:
        """Returns the file of one mask. image_id: a valid folder name. Raises BadInputError, also when a link leads outside."""
        if self._whole_meta(image_id) is None and (row := self.archive.find(image_id)) is not None:
            files = _files_of(row)
            if seg_id in files:
                return files[seg_id]
        return read_bytes(file_inside(self.folder, f"{image_id}/{seg_id}.png"))

    def loose_ids(self) -> set[str]:
        """Returns the ids of images that have files of their own, complete or not."""
        metas = {path.stem for path in (self.folder / META).glob(f"*{META_SUFFIX}")}
        return metas | {path.name for path in self.folder.iterdir() if path.is_dir() and path.name != META}

    def loose_row(self, image_id: str) -> Row | None:
        """Returns the masks in an image's files as a row; None unless they are complete and undamaged."""
        meta = self._whole_meta(image_id)
        files = None if meta is None else self._read_undamaged(image_id, meta)
        if files is None:
            return None
        try:
            text = self._meta_path(image_id).read_text(encoding="utf-8")
        except OSError:
            return None
        return Row(image_id, str(meta.get("image")), str(meta.get("key")), text, tuple(files.items()))

    def remove_loose(self, image_id: str) -> None:
        """Removes an image's files, the meta file first, so that an interruption leaves an incomplete image.

        Raises UserError.
        """
        folder = self.folder / image_id
        with writing(folder):
            self._meta_path(image_id).unlink(missing_ok=True)
            if folder.exists():
                shutil.rmtree(folder)

    def restore(self, row: Row) -> None:
        """Writes an image's files from its row. Raises UserError, and BadInputError when a file name is not that of a mask."""
        self._put(row.image_id, {f"{seg_id}.png": data for seg_id, data in _files_of(row).items()}, row.text)

    def _put(self, image_id: str, files: dict[str, bytes], meta: str) -> None:
        """Raises UserError, and BadInputError when the folder contains other files than masks, which would be deleted."""
        meta_path, folder = self._meta_path(image_id), self.folder / image_id
        if foreign := _foreign_file(folder):
            raise BadInputError(
                f"{folder}: exists and holds {foreign[:80]!r}, which is no mask; move it or use another --masks"
            )
        with writing(meta_path):
            meta_path.unlink(missing_ok=True)
        replace_folder(folder, files)
        if not files:
            with writing(self.folder):
                folder.rmdir()
        write_atomic(meta_path, meta)

    def _meta_path(self, image_id: str) -> Path:
        return self.folder / META / f"{image_id}{META_SUFFIX}"

    def _whole_meta(self, image_id: str) -> dict | None:
        """Returns the meta data of an image; None if there is none, or if a PNG is missing or has another size.

        Earlier versions noted no sizes; of theirs any size will do.
        """
        meta, folder = self._read_meta(image_id), self.folder / image_id
        if meta is None:
            return None
        try:
            whole = all(noted in (None, (folder / name).stat().st_size) for name, noted in _noted(meta, "bytes").items())
        except (OSError, AttributeError, KeyError, TypeError):  # the content of the file is unchecked
            return None
        return meta if whole else None

    def _read_undamaged(self, image_id: str, meta: Mapping[str, Any]) -> dict[str, bytes] | None:
        """Returns the PNGs that a meta file lists, by name; None when a checksum differs.

        Earlier versions noted no checksums; of theirs the PNG's own are checked.
        """
        folder = self.folder / image_id
        try:
            files = {name: (folder / name).read_bytes() for name in _noted(meta, "crc32")}
        except OSError:
            return None
        return files if all(_is_undamaged(files[name], noted) for name, noted in _noted(meta, "crc32").items()) else None

    def _why_none(self, image_id: str) -> str:
        """Explains why an image has no masks, and what to do."""
        if reason := self._reasons.get(image_id):
            return f"generate_masks failed on this image ({reason}); fix the cause and run generate_masks again"
        return f"no masks in {self.folder / image_id}; run generate_masks on this image first"

    @cached_property
    def _reasons(self) -> dict[str, str]:
        """Maps the image id to the reason why stage 1 failed; constant while the masks are read."""
        with suppress(UserError):  # a folder from elsewhere may have another file of this name
            return {failure.image_id: failure.reason for failure in all_failures(self.folder).values()}
        return {}

    def _read_meta(self, image_id: str) -> dict | None:
        path = self._meta_path(image_id)
        if not path.is_file():
            return None
        try:
            meta = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return meta if isinstance(meta, dict) else None


def _is_mask(path: Path) -> bool:
    return path.suffix == ".png" and path.stem.isdecimal()


def _is_undamaged(data: bytes, crc32: int | None) -> bool:
    return is_sound_png(data) if crc32 is None else zlib.crc32(data) == crc32


def _foreign_file(folder: Path) -> str:
    """Returns the name of a file in the folder that is not a mask, or "". Hidden files are ignored."""
    with suppress(OSError):  # there is no folder, or another process is replacing it
        return next((path.name for path in folder.iterdir() if not _is_mask(path) and not path.name.startswith(".")), "")
    return ""


def _files_of(row: Row) -> dict[int, bytes]:
    """Returns seg id -> PNG bytes of a row, ordered by seg id. Raises BadInputError."""
    files = {name.removesuffix(".png"): data for name, data in row.files}
    if not all(map(str.isdecimal, files)):
        raise BadInputError(
            f"{row.image_id}: its row in a shard has masks that are not named by numbers; "
            "remove the shard and run generate_masks again"
        )
    return dict(sorted((int(name), data) for name, data in files.items()))


def _noted(meta: Mapping[str, Any], field: str) -> dict[str, int | None]:
    """The PNGs that a meta file lists, each with its `field`, None where there is none: "bytes" or "crc32" of the file."""
    return {f"{entry['seg_id']}.png": entry.get(field) for entry in meta.get("masks", ())}


def _decode(data: bytes, name: str) -> np.ndarray:
    try:
        return decode_mask(data)
    except BadInputError as error:
        raise BadInputError(f"{name}: not a readable PNG; run generate_masks again, which replaces damaged masks") from error
