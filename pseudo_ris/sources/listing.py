"""Where the images of a stage come from, and where stage 2's masks do: folders, annotation files, LMDBs."""

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
from pseudo_ris.sources.annotation_masks import GivenMasks
from pseudo_ris.storage.mask_store import MaskStore

LISTS = ("coco", "refer", "anns", "lmdb")


@no_collection()
def list_records(source: SourceConfig, masks: Path | None = None) -> list[ImageRecord]:
    """The images of a stage, ordered by name; an image has the same id and bytes whichever source lists it.

    masks: the stage's folder of masks, which may be below that of the images. Prints what else is left out there.
    Raises UserError when several lists are given, when a list cannot be read, gives an image two ids or names one that is not
    there, and when a name leads out of the folder of images, also by a symbolic link: such a list is refused as a whole.
    """
    given = [name for name in LISTS if getattr(source, name)]
    if len(given) > 1:
        raise UserError(f"--{given[0]} and --{given[1]}: each says which images there are; give one of them")
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


def open_masks(config: CaptionGenerationConfig) -> MaskStore | GivenMasks:
    """The masks of stage 2 by its settings `masks` and `mask_format`. Raises UserError."""
    path = Path(config.masks)
    if config.mask_format == "coco":
        return GivenMasks.of_coco(path)
    if config.mask_format == "refer":
        return GivenMasks.of_refer(path, config.split)
    return MaskStore.existing(path)


def reading_masks(config: CaptionGenerationConfig) -> AbstractContextManager[None]:
    """Holds the masks of stage 2 for a run that reads them. Raises UserError when they are being written or not there."""
    return MaskStore.existing(Path(config.masks)).reading() if config.mask_format == "folder" else nullcontext()


def coco_names(path: Path) -> dict[str, str]:
    """File name -> image id, of a COCO file. Raises UserError."""
    images = coco_images(read_json(path), path).values()
    return _ids_by_name(((image.name, image.image_id) for image in images), path)


def refer_names(path: Path, split: str) -> dict[str, str]:
    """File name -> image id, of the images that the refs of a split are about.

    The names are those of instances.json where it lies beside `path`, otherwise the refs' own without their number
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
    """Image name -> image id, of ETRIS's or Pseudo-RIS's anns. Raises UserError."""
    return _ids_by_name((_name_and_id(entry, where) for entry, where in entries_of(read_json(path), path)), path)


def lmdb_images(path: Path) -> list[ImageRecord]:
    """The images of an LMDB of ETRIS, CRIS or Pseudo-RIS, one for each name, ordered by name; their bytes stay there.

    Raises UserError that names what cannot be read, and when records of one name have different ids or images.
    """
    records = RecordLmdb(path)
    listed = [(*_name_and_id(record.as_fields(), str(path)), digest(record.img)) for record in records]
    ids = _ids_by_name(((name, image_id) for name, image_id, _ in listed), path)
    numbers: dict[str, int] = {}
    for number, (name, _, content) in enumerate(listed):
        first = numbers.setdefault(name, number)
        if listed[first][2] != content:
            raise UserError(f"{path}: records {first} and {number} have different images named {name!r:.80}; mend the LMDB")
    return [ImageRecord(ids[name], name, partial(records.image_bytes, number)) for name, number in sorted(numbers.items())]


def _name_and_id(entry: dict[str, Any], where: str) -> tuple[str, str]:
    """Of the image in an entry of anns or in an LMDB's record.

    ETRIS and CRIS note no id, Pseudo-RIS `img_id`, exports `image_id` where the id is neither a number nor that of the name.
    """
    name = field(entry, "img_name", str, where)
    if "image_id" in entry:
        return name, field(entry, "image_id", str, where)
    return name, str(field(entry, "img_id", int, where)) if "img_id" in entry else image_id_of(name)


def _ids_by_name(named: Iterable[tuple[str, str]], path: Path) -> dict[str, str]:
    """Raises UserError when a name has two ids or is none of a file, an id is no text for a file, or there is no name."""
    ids: dict[str, str] = {}
    for name, image_id in named:
        if ids.setdefault(name, image_id) != image_id:
            raise UserError(f"{path}: {name!r:.80} has the image ids {ids[name]!r:.40} and {image_id!r:.40}; mend the file")
    if not ids:
        raise UserError(f"{path}: names no image; give a file that does")
    for name, image_id in ids.items():
        try:
            check_name(name)
            image_id.encode()
        except (BadInputError, UnicodeEncodeError) as error:
            raise UserError(f"{path}: {error}; mend the file") from error
    return ids


def find_images(folder: Path, listed: Mapping[str, str]) -> list[ImageRecord]:
    """The images that an annotation file lists, ordered by relative path.

    listed: name in the file -> image id. A name is a path relative to `folder`; where nothing is there, the file somewhere
        below `folder` whose path ends in it: data sets leave out the folder their images come in.
    Raises UserError when an image is not there, may be one of several files or is listed under two names, and when a name
    leads out of the folder.
    """
    places = {name: name for name in listed}
    missing = _missing(folder, places)
    if missing:
        places |= _search(folder, missing)
        missing = _missing(folder, {name: places[name] for name in missing})
    if missing:
        first = missing[min(missing)]
        raise UserError(f"--images {folder}: {len(missing)} of {len(listed)} wanted images are not there, first {first}")
    names: dict[str, str] = {}
    for name, place in places.items():
        if names.setdefault(place, name) != name:
            raise UserError(
                f"--images {folder}: {place} is listed as {names[place]!r:.80} and as {name!r:.80}; leave one of them"
            )
    return [ImageRecord(listed[name], place, reader_inside(folder, place)) for place, name in sorted(names.items())]


def _missing(folder: Path, places: Mapping[str, str]) -> dict[str, str]:
    """Name -> reason, of those whose place is no file inside the folder."""
    reasons: dict[str, str] = {}
    for name, place in places.items():
        try:
            file_inside(folder, place)
        except BadInputError as error:
            reasons[name] = str(error)
    return reasons


def _search(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Name -> path, relative to `folder`, of the image that ends in it; without names that no path ends in."""
    by_last_part: dict[str, list[str]] = defaultdict(list)
    for record in list_images(folder):
        by_last_part[record.name.rsplit("/", 1)[-1]].append(record.name)
    places: dict[str, str] = {}
    for name in names:
        fitting = [place for place in by_last_part[name.rsplit("/", 1)[-1]] if place.endswith(f"/{name}")]
        if len(fitting) > 1:
            raise UserError(
                f"--images {folder}: {name!r:.80} may be {fitting[0]} or {fitting[1]}; give the folder that is meant"
            )
        if fitting:
            places[name] = fitting[0]
    return places
