"""Reads and writes the data sets of ETRIS and CRIS, as annotation files or as LMDBs.

Annotation files: `anns/<dataset>/<split>.json` with `masks/<dataset>/<segment_id>.png`. LMDBs: `<split>.lmdb`. Both list
objects. Exports add fields, which the original loaders ignore, only when they carry new information: `image_id` (if it differs
from `img_id` and from the id that the name gives), `category_id` (if not COCO's), `seg_id_in_image` (if it differs from the
mask's id in the set), `ref_id` and, in LMDBs, `sent_ids` (if counting from 0 gives other ids). If the images are not sorted by
split, or
an image has no objects, exports also list all images: `images.json` beside LMDBs, otherwise `anns/<dataset>_images.json`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from pseudo_ris.errors import UserError
from pseudo_ris.formats.coco_categories import COCO_CATEGORIES
from pseudo_ris.formats.etris_entries import CATEGORY_IDS, Entry, images_of, listed_places, whole
from pseudo_ris.formats.outputs import check_dataset, copy_image, image_bytes, new_folder
from pseudo_ris.formats.record_lmdb import LmdbRecord, RecordLmdb, writing_records
from pseudo_ris.io.image_ids import image_id_of
from pseudo_ris.io.json_fields import entries_of, read_json
from pseudo_ris.io.json_fields import field as field_of
from pseudo_ris.io.lmdb_file import DATA_FILE
from pseudo_ris.io.mask_png import encode_mask
from pseudo_ris.io.safe_paths import IMAGES, images_beside, read_inside, reader_inside
from pseudo_ris.pairs.pair_set import PairImage, PairObject, checked_images

ANNS, MASKS = "anns", "masks"
LMDB_SUFFIX = ".lmdb"
IMAGE_LIST = "images.json"
SENT_ID = "sent_id"
WHOLE_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")


def read_lmdb(path: Path, images: Path | None = None) -> Iterator[PairImage]:
    """Yields the images of one LMDB (a split) or of a folder of LMDBs; image files are read from the LMDB on demand.

    All objects of an image are grouped at the position of its first object.
    path: a file, a folder with `data.mdb`, or a folder of `<split>.lmdb`. images: ignored.
    Raises UserError that names the file, key and field.
    """
    if path.is_file() or (path / DATA_FILE).exists():
        splits, places = {path.stem: RecordLmdb(path)}, None
    else:
        splits = {file.stem: RecordLmdb(file) for file in _split_files(path, LMDB_SUFFIX)}
        places = listed_places(path / IMAGE_LIST, partial(_lmdb_reader, splits))
        _require_splits(path, splits, places, LMDB_SUFFIX)
    return checked_images(images_of([_LmdbSplit(name, records) for name, records in splits.items()], places), str(path))


def read_anns(path: Path, images: Path | None = None, masks: Path | None = None) -> Iterator[PairImage]:
    """Yields the images of one annotation file (a split) or of a data set's folder of annotation files.

    path: `<split>.json`, `anns/<dataset>`, or the parent of `anns` if it contains one data set. images: folder of the images;
    default: `images` beside `anns`. masks: folder of `<segment_id>.png`; default: `masks/<dataset>` beside `anns`.
    Raises UserError that names the file, entry and field.
    """
    folder = path.parent if path.is_file() else _dataset_folder(path)
    root = folder.parent.parent
    images = images_beside(root, images)
    files = [path] if path.is_file() else _split_files(folder, ".json")
    places = None
    if not path.is_file():
        places = listed_places(_image_list(folder), lambda entry, where: reader_inside(images, str(entry.get("img_name"))))
        _require_splits(folder, files, places, ".json")
    splits = [_AnnsSplit(file, masks or root / MASKS / folder.name, images) for file in files]
    return checked_images(images_of(splits, places), str(path))


def write_lmdb(out: Path, images: Iterable[PairImage], serialization: str = "pyarrow") -> None:
    """Writes a new folder of `<split>.lmdb` in the layout of Pseudo-RIS, which ETRIS and CRIS can load too.

    serialization: a key of record_lmdb.SERIALIZATIONS. Raises UserError.
    """
    numbers, listing = _Numbers(), _ImageList()
    with new_folder(out) as folder:
        with ExitStack() as stack:
            files = _BySplit(lambda name: writing_records(folder / f"{name}{LMDB_SUFFIX}", serialization), stack)
            for image in checked_images(images, str(out)):
                data, writer = image_bytes(image), files[image.split]
                for each in image.objects:
                    writer.add(_record_of(image, each, data, numbers))
                listing.add(image, **({} if image.objects else {"key": writer.add_image(data)}))
        listing.write(folder / IMAGE_LIST)


def is_serialized(out: Path, serialization: str) -> bool:
    """True if all LMDBs in a folder from `write_lmdb` have this serialization. Raises UserError."""
    return all(RecordLmdb(path).serialization == serialization for path in _split_files(out, LMDB_SUFFIX))


def write_anns(out: Path, images: Iterable[PairImage], dataset: str, copy_images: bool = False) -> None:
    """Writes a new folder with `anns/<dataset>/`, `masks/<dataset>/` and, if asked, `images/`. Raises UserError."""
    check_dataset(dataset)
    numbers, listing = _Numbers(), _ImageList()
    with new_folder(out) as folder:
        anns, masks = folder / ANNS / dataset, folder / MASKS / dataset
        anns.mkdir(parents=True)
        masks.mkdir(parents=True)
        with ExitStack() as stack:
            files = _BySplit(lambda name: _json_list(anns / f"{name}.json"), stack)
            for image in checked_images(images, str(out)):
                for each in image.objects:
                    (masks / f"{each.object_id}.png").write_bytes(encode_mask(each.mask.decode()))
                    files[image.split](_annotation_of(image, each, numbers))
                listing.add(image)
                if copy_images:
                    copy_image(image, folder / IMAGES)
        listing.write(_image_list(anns))


@dataclass(frozen=True)
class _LmdbSplit:
    name: str
    records: RecordLmdb

    def __len__(self) -> int:
        return len(self.records)

    def entry(self, number: int) -> Entry:
        record = self.records[number]
        where = f"{self.records.path}, record {number}"
        sent_ids = None
        if "sent_ids" in record.further:
            numbers = field_of(record.further, "sent_ids", list, where)
            sent_ids = tuple(whole({"sent_ids": each}, "sent_ids", where) for each in numbers)
        return Entry(
            name=record.img_name,
            cat=record.cat,
            object_id=record.seg_id,
            img_id=record.img_id,
            sentences=record.sents,
            sent_ids=sent_ids,
            further=record.further,
            read_mask=lambda: record.mask,
            read_image=partial(self.records.image_bytes, number),
            where=where,
        )


class _AnnsSplit:
    def __init__(self, path: Path, masks: Path, images: Path | None) -> None:
        self.name = path.stem
        self.masks = masks
        self.images = images
        self.entries = list(entries_of(read_json(path), path))

    def __len__(self) -> int:
        return len(self.entries)

    def entry(self, number: int) -> Entry:
        fields, where = self.entries[number]
        name, object_id = field_of(fields, "img_name", str, where), whole(fields, "segment_id", where)
        sentences = [_sentence(sentence, where) for sentence in field_of(fields, "sentences", list, where)]
        if field_of(fields, "sentences_num", int, where) != len(sentences):
            raise UserError(f"{where}: sentences_num is not the length of sentences; get the file again")
        return Entry(
            name=name,
            cat=whole(fields, "cat", where),
            object_id=object_id,
            img_id=whole(fields, "img_id", where) if "img_id" in fields else None,
            sentences=tuple(sent for sent, _ in sentences),
            sent_ids=tuple(sent_id for _, sent_id in sentences),
            further=fields,
            read_mask=partial(read_inside, self.masks, f"{object_id}.png"),
            read_image=reader_inside(self.images, name),
            where=where,
        )


def _sentence(sentence: Any, where: str) -> tuple[str, int]:
    if not isinstance(sentence, dict):
        raise UserError(f"{where}: sentences: an entry is not an object with sent and sent_id; get the file again")
    return field_of(sentence, "sent", str, where), whole(sentence, SENT_ID, where)


def _split_files(folder: Path, suffix: str) -> list[Path]:
    return sorted(folder.glob(f"*{suffix}"), key=lambda file: file.stem)


def _require_splits(folder: Path, splits: Iterable[Any], places: Any, suffix: str) -> None:
    """Raises UserError when there is neither a split nor a list of images, which may be empty."""
    if places is None and not splits:
        raise UserError(f"{folder}: contains no <split>{suffix}; give a data set of ETRIS or CRIS")


def _dataset_folder(path: Path) -> Path:
    """Returns the only data set in `<path>/anns`, or `path` itself if it has no `anns`."""
    if not (path / ANNS).is_dir():
        return path
    found = sorted(folder for folder in (path / ANNS).iterdir() if folder.is_dir())
    if len(found) != 1:
        names = ", ".join(folder.name for folder in found[:5]) or "none"
        raise UserError(f"{path / ANNS}: must contain one data set, has {names}; give anns/<dataset>")
    return found[0]


def _image_list(anns: Path) -> Path:
    return anns.with_name(f"{anns.name}_{IMAGE_LIST}")


def _lmdb_reader(splits: dict[str, RecordLmdb], entry: dict[str, Any], where: str) -> Callable[[], bytes]:
    """Returns the function that reads an image without objects."""
    split = field_of(entry, "split", str, where)
    if split not in splits:
        raise UserError(f"{where}: no {split[:60]!r}{LMDB_SUFFIX} beside this file; get all files from the same set")
    return partial(splits[split].loose_image_bytes, entry.get("key"))


class _BySplit(dict[str, Any]):
    """Maps a split to its writer, which is opened on first use and closed by `stack`."""

    def __init__(self, opened: Callable[[str], AbstractContextManager[Any]], stack: ExitStack) -> None:
        super().__init__()
        self._opened = opened
        self._stack = stack

    def __missing__(self, split: str) -> Any:
        self[split] = writer = self._stack.enter_context(self._opened(split))
        return writer


@contextmanager
def _json_list(path: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Context manager that yields a function which appends an entry to a JSON list in a file."""
    with path.open("w", encoding="utf-8") as file:
        separators = chain(["[\n"], repeat(",\n"))
        yield lambda entry: file.write(next(separators) + json.dumps(entry))
        file.write("\n]\n")


@dataclass
class _Numbers:
    """Counts refs and sentences of the first split as a reader does, from 0, so that matching ids need not be written.

    Other splits always store their ids, because a reader's counts there depend on which splits it reads.
    """

    split: str | None = None
    refs: int = 0
    sentences: int = 0

    def take(self, image: PairImage, each: PairObject) -> tuple[int | None, tuple[int, ...] | None]:
        """Returns the ref_id and sent_ids that a reader would assign; None for each in later splits."""
        self.split = image.split if self.split is None else self.split
        if image.split != self.split:
            return None, None
        first = self.sentences
        self.refs += 1
        self.sentences += len(each.sentences)
        return self.refs - 1, tuple(range(first, self.sentences))


@dataclass
class _ImageList:
    """All images in order; written to a file only if the splits do not imply the order."""

    entries: list[dict[str, Any]] = field(default_factory=list)
    has_empty: bool = False

    def add(self, image: PairImage, **more: str) -> None:
        looks = {"height": image.height, "width": image.width}
        self.entries.append({"image_id": image.image_id, "img_name": image.name, "split": image.split, **looks, **more})
        self.has_empty |= not image.objects

    def write(self, path: Path) -> None:
        splits = [entry["split"] for entry in self.entries]
        if self.has_empty or not splits or splits != sorted(splits):
            path.write_text(json.dumps(self.entries), encoding="utf-8")


def _record_of(image: PairImage, each: PairObject, data: bytes, numbers: _Numbers) -> LmdbRecord:
    img_id = _img_id(image)
    ref_id, sent_ids = numbers.take(image, each)
    further = _further_fields(image, each, img_id, ref_id)
    if each.sent_ids != sent_ids:
        further["sent_ids"] = list(each.sent_ids)
    return LmdbRecord(
        img=data,
        mask=encode_mask(each.mask.decode()),
        cat=_cat(each),
        seg_id=each.object_id,
        img_name=image.name,
        sents=each.sentences,
        img_id=img_id,
        further=further,
    )


def _annotation_of(image: PairImage, each: PairObject, numbers: _Numbers) -> dict[str, Any]:
    img_id = _img_id(image)
    box, _ = each.mask.box_and_area()
    sentences = [
        {"idx": index, SENT_ID: sent_id, "sent": sent}
        for index, (sent_id, sent) in enumerate(zip(each.sent_ids, each.sentences, strict=True))
    ]
    return {
        "bbox": list(box),
        "cat": _cat(each),
        "segment_id": each.object_id,
        "img_name": image.name,
        **({} if img_id is None else {"img_id": img_id}),
        "sentences": sentences,
        "sentences_num": len(sentences),
        **_further_fields(image, each, img_id, numbers.take(image, each)[0]),
    }


def _img_id(image: PairImage) -> int | None:
    return int(image.image_id) if WHOLE_NUMBER.fullmatch(image.image_id) else None


def _cat(each: PairObject) -> int:
    return CATEGORY_IDS.index(each.category_id) if each.category_id in COCO_CATEGORIES else 0


def _further_fields(image: PairImage, each: PairObject, img_id: int | None, ref_id: int | None) -> dict[str, Any]:
    """Returns the additional fields (see the module's docstring). ref_id: the id that a reader would assign."""
    further: dict[str, Any] = {}
    if img_id is None and image.image_id != image_id_of(image.name):
        further["image_id"] = image.image_id
    if each.category_id not in COCO_CATEGORIES:
        further["category_id"] = each.category_id
    if each.seg_id != each.object_id:
        further["seg_id_in_image"] = each.seg_id
    if each.ref_id != ref_id:
        further["ref_id"] = each.ref_id
    return further
