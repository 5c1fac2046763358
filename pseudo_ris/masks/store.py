"""Pseudo masks on disk: `<masks>/<image id>/<seg id>.png`, and beside them `<masks>/_meta/<image id>.json`.

The folder of an image holds its PNGs and nothing else (readers count files). The meta file exists also for images without
masks; it is written last, so masks without it are not finished.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.files import prepare_folder, replace_folder, write_atomic, writing
from pseudo_ris.images import read_bytes
from pseudo_ris.interchange.mask_png import decode_mask, encode_mask
from pseudo_ris.records import ImageRecord, MaskRecord
from pseudo_ris.shards import Shard, reading_from, working_in

META = "_meta"


@dataclass(frozen=True)
class StoredMasks:
    """The mask files of one image as read: seg id -> PNG bytes, ordered by seg id."""

    image_id: str
    files: dict[int, bytes]

    def flat(self) -> list[int | bytes]:
        """Seg ids and file contents, for hashing."""
        return [item for pair in self.files.items() for item in pair]

    def decode(self, height: int, width: int) -> tuple[list[int], np.ndarray]:
        """Seg ids and masks bool [N, H, W], blank masks (all 0 or all 1) left out; a seg id stays its file's number.

        Raises BadInputError when a file is no mask of this size, or when masks exist and all are blank.
        """
        masks = {seg_id: _decode(data, f"{self.image_id}/{seg_id}.png") for seg_id, data in self.files.items()}
        for seg_id, mask in masks.items():
            if mask.shape != (height, width):
                raise BadInputError(
                    f"{self.image_id}/{seg_id}.png: {mask.shape[1]}x{mask.shape[0]} pixels, its image has "
                    f"{width}x{height}; make the masks anew from this image"
                )
        return without_blank(masks, height, width, self.image_id)


def without_blank(masks: Mapping[int, np.ndarray], height: int, width: int, name: str) -> tuple[list[int], np.ndarray]:
    """Seg ids and masks bool [N, H, W] of the masks of the image `name` that are neither all 0 nor all 1.

    Raises BadInputError when there are masks and all are.
    """
    kept = {seg_id: mask for seg_id, mask in masks.items() if mask.any() and not mask.all()}
    if masks and not kept:
        raise BadInputError(f"{name}: all {len(masks)} masks are blank (all 0 or all 1)")
    return list(kept), np.stack(list(kept.values())) if kept else np.zeros((0, height, width), bool)


class MaskStore:
    """Writes and reads the pseudo masks below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def existing(cls, folder: Path) -> MaskStore:
        """The store at a folder that must be there already. Raises UserError."""
        if folder.is_file():
            raise UserError(f"--masks {folder}: is a file; if it holds annotations, add --mask_format coco or refer")
        if not folder.is_dir():
            raise UserError(f"--masks {folder}: no such folder; run generate_masks/cutler_sam_masks.py first")
        return cls(folder)

    def prepare(self, clear: bool = True) -> None:
        """Creates the folders; `clear` removes what a killed run left half-written. Raises UserError."""
        prepare_folder(self.folder / META, clear)
        prepare_folder(self.folder, clear)

    @contextmanager
    def working(self, shard: Shard) -> Iterator[None]:
        """Prepares and holds the folder for a run of stage 1. Raises UserError when another run is at work on it."""
        with working_in(self.folder, shard):
            self.prepare(clear=shard.is_whole)
            yield

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Holds the folder for a run of stage 2: masks that are just being replaced would be read in part.

        Raises UserError when stage 1 is at work on it.
        """
        with reading_from(self.folder):
            yield

    def is_current(self, record: ImageRecord, key: str) -> bool:
        """Whether finished masks of the image exist that were made from `key`."""
        meta = self._read_meta(record.image_id)
        return meta is not None and meta.get("key") == key

    def is_known(self, record: ImageRecord) -> bool:
        """Whether stage 1 has recorded a result for the image, masks or none."""
        return self._read_meta(record.image_id) is not None

    def write(self, record: ImageRecord, key: str, masks: Sequence[MaskRecord], height: int, width: int) -> None:
        """Writes the masks of an image in place of earlier ones; interrupted, the image counts as not done."""
        meta_path = self._meta_path(record.image_id)
        with writing(meta_path):
            meta_path.unlink(missing_ok=True)
        replace_folder(self.folder / record.image_id, {f"{mask.seg_id}.png": encode_mask(mask.mask) for mask in masks})
        if not masks:
            with writing(self.folder):
                (self.folder / record.image_id).rmdir()
        entries = [
            {
                "seg_id": mask.seg_id,
                "box": list(mask.box),
                "area": int(mask.mask.sum()),
                "score": round(mask.score, 6),
                "source": mask.source,
            }
            for mask in masks
        ]
        meta = {"image_id": record.image_id, "image": record.name, "size": [height, width], "key": key, "masks": entries}
        write_atomic(meta_path, json.dumps(meta, ensure_ascii=False, indent=1) + "\n")

    def read(self, record: ImageRecord) -> StoredMasks:
        """Mask files of an image; none when stage 1 found no object. Works for folders of PNGs from elsewhere too.

        Raises BadInputError when the image has neither masks nor a record of having none, or when a file is missing.
        """
        folder = self.folder / record.image_id
        meta = self._read_meta(record.image_id)
        paths = sorted(folder.glob("*.png")) if folder.is_dir() else []
        strange = [path.name for path in paths if not path.stem.isdecimal()]
        if strange:
            raise BadInputError(f"{record.image_id}/{strange[0]}: a mask file is named by a number; rename or remove it")
        by_id = {int(path.stem): path for path in paths}
        if meta is None and not by_id:
            raise BadInputError(f"{record.name}: no masks in {folder}; run generate_masks on this image first")
        missing = sorted({entry["seg_id"] for entry in (meta or {}).get("masks", [])} - by_id.keys())
        if missing:
            raise BadInputError(f"{record.image_id}/{missing[0]}.png: mask file is missing; run generate_masks again")
        return StoredMasks(record.image_id, {seg_id: read_bytes(by_id[seg_id]) for seg_id in sorted(by_id)})

    def _meta_path(self, image_id: str) -> Path:
        return self.folder / META / f"{image_id}.json"

    def _read_meta(self, image_id: str) -> dict | None:
        path = self._meta_path(image_id)
        if not path.is_file():
            return None
        try:
            meta = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return meta if isinstance(meta, dict) else None


def _decode(data: bytes, name: str) -> np.ndarray:
    try:
        return decode_mask(data)
    except BadInputError as error:
        raise BadInputError(f"{name}: not a readable PNG; make the masks anew") from error
