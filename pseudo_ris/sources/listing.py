"""Lists the images of a stage and opens stage 2's masks, from folders, annotation files or LMDBs."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from pseudo_ris.config import CaptionGenerationConfig, SourceConfig
from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.formats.record_lmdb import RecordLmdb
from pseudo_ris.formats.refs import INSTANCES, plain_name, refs_of_split
from pseudo_ris.io.files import digest
from pseudo_ris.io.gc_tuning import no_collection
from pseudo_ris.io.image_ids import image_id_of
from pseudo_ris.io.images import list_images, look_below
from pseudo_ris.io.json_fields import coco_images, entries_of, field, read_json
from pseudo_ris.io.safe_paths import check_name, file_inside, reader_inside
from pseudo_ris.records import ImageRecord
from pseudo_ris.sources.annotation_masks import AnnotationMasks
from pseudo_ris.storage.mask_store import MaskStore

LISTS = ("coco", "refer", "anns", "lmdb")


@no_collection()
def list_records(source: SourceConfig, masks: Path | None = None) -> list[ImageRecord]:
    """Returns the images of a stage, ordered by name; an image has the same id and bytes in every kind of source.

    masks: the stage's folder of masks, which may lie inside the folder of images. Prints a notice about skipped files.
    Raises UserError when several lists are given, or when a list cannot be read, gives an image two ids, or names a file that
    is missing or outside the folder of images (also by a symbolic link).
    """
    given = [name for name in LISTS if getattr(source, name)]
    if len(given) > 1:
        raise UserError(f"--{given[0]} and --{given[1]}: both list the images; give only one")
    folder = Path(source.images)
    if source.coco:
        return find_images(folder, coco_names(Path(source.coco)))
    if source.refer:
        return find_images(folder, refer_names(Path(source.refer), source.split))
    if source.anns:
        return find_images(folder, anns_names(Path(source.anns)))
    if source.lmdb:
        return lmdb_images(Path(source.lmdb))
    listing = look_below(folder, masks)
    for notice in listing.notices():
        print(notice, file=sys.stderr)
    return listing.records


def open_masks(config: CaptionGenerationConfig) -> MaskStore | AnnotationMasks:
    """Opens the masks of stage 2 as its settings `masks` and `mask_format` say. Raises UserError."""
    path = Path(config.masks)
    if config.mask_format == "coco":
        return AnnotationMasks.of_coco(path)
    if config.mask_format == "refer":
        return AnnotationMasks.of_refer(path, config.split)
    return MaskStore.existing(path)


def reading_masks(config: CaptionGenerationConfig) -> AbstractContextManager[None]:
    """Locks stage 2's masks for reading. Raises UserError when they are missing or being written."""
    return MaskStore.existing(Path(config.masks)).reading() if config.mask_format == "folder" else nullcontext()


def coco_names(path: Path) -> dict[str, str]:
    """Returns file name -> image id of a COCO file. Raises UserError."""
    images = coco_images(read_json(path), path).values()
    return _ids_by_name(((image.name, image.image_id) for image in images), path)


def refer_names(path: Path, split: str) -> dict[str, str]:
    """Returns file name -> image id of the images that the refs of a split name.

    Names come from the instances.json beside `path`; without it, from the refs, with the added number removed
    (`COCO_train2014_000000000009_16.jpg` -> `COCO_train2014_000000000009.jpg`). Raises UserError.
    """
    refs = refs_of_split(path, split)
    instances = path.with_name(INSTANCES)
    if not instances.exists():
        return _ids_by_name(((plain_name(ref.file_name), str(ref.image_id)) for ref in refs), path)
    images = coco_images(read_json(instances), instances)
    unknown = min((ref.image_id for ref in refs if ref.image_id not in images), default=None)
    if unknown is not None:
        raise UserError(f"{instances}: has no image {unknown}, which the refs name; get both files from the same set")
    named = (images[ref.image_id] for ref in refs)
    return _ids_by_name(((image.name, image.image_id) for image in named), instances)


def anns_names(path: Path) -> dict[str, str]:
    """Returns file name -> image id of an annotation file of ETRIS or Pseudo-RIS. Raises UserError."""
    return _ids_by_name((_name_and_id(entry, where) for entry, where in entries_of(read_json(path), path)), path)


def lmdb_images(path: Path) -> list[ImageRecord]:
    """Returns the images of an LMDB of ETRIS, CRIS or Pseudo-RIS, one per name, ordered by name; bytes are read on demand.

    Raises UserError when a record cannot be read, or when records with one name have different ids or images.
    """
    records = RecordLmdb(path)
    listed = [(*_name_and_id(record.as_fields(), str(path)), digest(record.img)) for record in records]
    ids = _ids_by_name(((name, image_id) for name, image_id, _ in listed), path)
    numbers: dict[str, int] = {}
    for number, (name, _, content) in enumerate(listed):
        first = numbers.setdefault(name, number)
        if listed[first][2] != content:
            raise UserError(f"{path}: records {first} and {number} have different images named {name!r:.80}; fix the LMDB")
    return [ImageRecord(ids[name], name, partial(records.image_bytes, number)) for name, number in sorted(numbers.items())]


def _name_and_id(entry: dict[str, Any], where: str) -> tuple[str, str]:
    """Returns name and id of the image in an annotation entry or LMDB record.

    The id is `image_id` (our exports), else `img_id` (Pseudo-RIS), else derived from the name (ETRIS, CRIS).
    """
    name = field(entry, "img_name", str, where)
    if "image_id" in entry:
        return name, field(entry, "image_id", str, where)
    return name, str(field(entry, "img_id", int, where)) if "img_id" in entry else image_id_of(name)


def _ids_by_name(named: Iterable[tuple[str, str]], path: Path) -> dict[str, str]:
    """Raises UserError when there is no name, a name has two ids or is unsafe, or an id cannot be encoded as UTF-8."""
    ids: dict[str, str] = {}
    for name, image_id in named:
        if ids.setdefault(name, image_id) != image_id:
            raise UserError(f"{path}: {name!r:.80} has two image ids, {ids[name]!r:.40} and {image_id!r:.40}; fix the file")
    if not ids:
        raise UserError(f"{path}: lists no images; give a file that does")
    for name, image_id in ids.items():
        try:
            check_name(name)
            image_id.encode()
        except (BadInputError, UnicodeEncodeError) as error:
            raise UserError(f"{path}: {error}; fix the file") from error
    return ids


def find_images(folder: Path, listed: Mapping[str, str]) -> list[ImageRecord]:
    """Finds the images that an annotation file lists, ordered by relative path.

    listed: name in the file -> image id. A name is a path relative to `folder`, or else the end of the path of a file below
        `folder`, since data sets omit the folder in which their images come.
    Raises UserError when an image is missing, ambiguous or listed under two names, or when a name leads out of the folder.
    """
    places = {name: name for name in listed}
    missing = _missing(folder, places)
    if missing:
        places |= _search(folder, missing)
        missing = _missing(folder, {name: places[name] for name in missing})
    if missing:
        first = missing[min(missing)]
        raise UserError(f"--images {folder}: {len(missing)} of {len(listed)} listed images are missing; first: {first}")
    names: dict[str, str] = {}
    for name, place in places.items():
        if names.setdefault(place, name) != name:
            raise UserError(
                f"--images {folder}: {place} is listed as {names[place]!r:.80} and as {name!r:.80}; remove one of them"
            )
    return [ImageRecord(listed[name], place, reader_inside(folder, place)) for place, name in sorted(names.items())]


def _missing(folder: Path, places: Mapping[str, str]) -> dict[str, str]:
    """Returns name -> reason for the names whose place is not a file inside the folder."""
    reasons: dict[str, str] = {}
    for name, place in places.items():
        try:
            file_inside(folder, place)
        except BadInputError as error:
            reasons[name] = str(error)
    return reasons


def _search(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Returns name -> relative path of the image whose path ends in the name, for the names that have one."""
    by_last_part: dict[str, list[str]] = defaultdict(list)
    for record in list_images(folder):
        by_last_part[record.name.rsplit("/", 1)[-1]].append(record.name)
    places: dict[str, str] = {}
    for name in names:
        fitting = [place for place in by_last_part[name.rsplit("/", 1)[-1]] if place.endswith(f"/{name}")]
        if len(fitting) > 1:
            raise UserError(
                f"--images {folder}: {name!r:.80} matches {fitting[0]} and {fitting[1]}; give a more specific folder"
            )
        if fitting:
            places[name] = fitting[0]
    return places
