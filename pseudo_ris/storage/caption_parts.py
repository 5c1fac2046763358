"""Part files of stage 2: one JSON per image with every candidate and all its scores, `<out>/<name>.parts/<image id>.json`.

With a `shard_size` the parts of finished images are rows of `<out>/<name>.parts/shards/*.parquet` instead.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pseudo_ris.errors import UserError
from pseudo_ris.io.files import prepare_folder, write_atomic, writing
from pseudo_ris.records import CaptionRecord, ImageRecord, MaskCaptions
from pseudo_ris.runtime.shares import Shard, working_in
from pseudo_ris.storage.compaction.archive import SHARDS, Archive
from pseudo_ris.storage.compaction.rows import DamagedShardError, Row

FOLDER_SUFFIX, SUFFIX = ".parts", ".json"
DECIMALS = 6
ROUNDED = (
    *("masked_score", "crop_score", "uniqueness", "correctness", "doc"),
    *("agreement", "word_agreement", "recognition", "listener", "confidence"),
)


@dataclass(frozen=True)
class Part:
    """All expressions of one image. `masks` is empty when stage 1 found no object."""

    image_id: str
    image_name: str
    masks: tuple[MaskCaptions, ...]


class PartStore:
    """Writes and reads the parts of one output. An image's file, if complete, takes precedence over its row in a shard."""

    def __init__(self, output: Path, name: str) -> None:
        self.output = output
        self.folder = output / f"{name}{FOLDER_SUFFIX}"
        self.archive = Archive(self.folder / SHARDS)

    def prepare(self, clear: bool = True) -> None:
        """Creates the folders; `clear` removes the temporary files of a killed run. Raises UserError."""
        prepare_folder(self.output, clear)
        prepare_folder(self.folder, clear)

    @contextmanager
    def working(self, shard: Shard) -> Iterator[None]:
        """Prepares and locks the output for a run of stage 2. Raises UserError when another run uses it."""
        with working_in(self.output, shard):
            self.prepare(clear=shard.is_whole)
            yield

    def is_current(self, record: ImageRecord, key: str) -> bool:
        """Returns True if a part of the image exists that was made from `key`."""
        row = self.loose_row(record.image_id)
        return (row.key if row else self.archive.key_of(record.image_id)) == key

    def write(self, record: ImageRecord, key: str, masks: Sequence[MaskCaptions]) -> None:
        """Writes an image's part. Scores are rounded to 6 decimals here, so that all files agree."""
        content = {
            "image_id": record.image_id,
            "image_name": record.name,
            "key": key,
            "masks": [dataclasses.asdict(rounded(mask)) for mask in masks],
        }
        write_atomic(self._path(record.image_id), json.dumps(content, ensure_ascii=False) + "\n")

    def read_all(self, records: Iterable[ImageRecord]) -> Iterator[Part]:
        """Yields the parts of the images that have one, in image order. Raises UserError."""
        for record in records:
            try:
                row = self.loose_row(record.image_id) or self.archive.find(record.image_id)
            except DamagedShardError as error:
                raise UserError(str(error)) from error
            if row is not None:
                yield Part(record.image_id, record.name, tuple(_mask_of(m) for m in json.loads(row.text)["masks"]))

    def loose_ids(self) -> set[str]:
        """Returns the ids of images that have a file, complete or not."""
        return {path.stem for path in self.folder.glob(f"*{SUFFIX}")}

    def loose_row(self, image_id: str) -> Row | None:
        """Returns the part in an image's file; None unless the file is complete."""
        try:
            text = self._path(image_id).read_text(encoding="utf-8")
            content = json.loads(text)
        except (OSError, ValueError):
            return None
        if not isinstance(content, dict) or "masks" not in content:
            return None
        return Row(image_id, str(content.get("image_name")), str(content.get("key")), text)

    def remove_loose(self, image_id: str) -> None:
        """Removes an image's file. Raises UserError."""
        with writing(self.folder):
            self._path(image_id).unlink(missing_ok=True)

    def restore(self, row: Row) -> None:
        """Writes an image's file from its row. Raises UserError."""
        write_atomic(self._path(row.image_id), row.text)

    def _path(self, image_id: str) -> Path:
        return self.folder / f"{image_id}{SUFFIX}"


def rounded(mask: MaskCaptions) -> MaskCaptions:
    """Returns the expressions of a mask with scores rounded as they are stored."""
    candidates = [
        dataclasses.replace(c, **{name: round(getattr(c, name), DECIMALS) for name in ROUNDED}) for c in mask.candidates
    ]
    return dataclasses.replace(mask, candidates=tuple(candidates))


def _mask_of(content: dict) -> MaskCaptions:
    candidates = tuple(CaptionRecord(**candidate) for candidate in content["candidates"])
    return MaskCaptions(content["seg_id"], content["one_mask"], candidates)
