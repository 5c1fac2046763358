"""Groups the objects of ETRIS's split files by image, for annotation files and LMDBs alike."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.formats.coco_categories import COCO_CATEGORIES
from pseudo_ris.io.image_ids import image_id_of
from pseudo_ris.io.json_fields import entries_of, field, read_json
from pseudo_ris.io.mask_png import decode_mask
from pseudo_ris.pairs.pair_set import LARGEST_NUMBER, PairImage, PairObject, Rle

CATEGORY_IDS = tuple(COCO_CATEGORIES)
"""COCO's category ids, indexed by ETRIS's `cat`."""


@dataclass(frozen=True)
class Entry:
    """One object of a split file.

    img_id, sent_ids: None if the file has none. further: fields that the original tools do not write (see etris).
    read_mask, read_image: return the encoded files; raise BadInputError. where: the entry's place, for error messages.
    """

    name: str
    cat: int
    object_id: int
    img_id: int | None
    sentences: tuple[str, ...]
    sent_ids: tuple[int, ...] | None
    further: dict[str, Any]
    read_mask: Callable[[], bytes]
    read_image: Callable[[], bytes]
    where: str

    @property
    def image_id(self) -> str:
        """See records.ImageRecord."""
        if "image_id" in self.further:
            return field(self.further, "image_id", str, self.where)
        return image_id_of(self.name) if self.img_id is None else str(self.img_id)

    @property
    def category_id(self) -> int:
        """COCO's category id."""
        number = self._number("category_id")
        if number is not None:
            return number
        if not 0 <= self.cat < len(CATEGORY_IDS):
            raise UserError(f"{self.where}: cat is not a number from 0 to {len(CATEGORY_IDS) - 1}; get the file again")
        return CATEGORY_IDS[self.cat]

    @property
    def ref_id(self) -> int | None:
        """The stored ref_id, or None."""
        return self._number("ref_id")

    def object(self, ref_id: int, first_sentence: int) -> PairObject:
        """Returns the object. ref_id, first_sentence: ids to use if the entry stores none. Raises UserError."""
        seg_id = self._number("seg_id_in_image")
        count = len(self.sentences)
        try:
            mask = Rle.of(decode_mask(self.read_mask()))
        except BadInputError as error:
            raise UserError(f"{self.where}: {error}") from error
        return PairObject(
            ref_id=ref_id if self.ref_id is None else self.ref_id,
            object_id=self.object_id,
            seg_id=self.object_id if seg_id is None else seg_id,
            mask=mask,
            sentences=self.sentences,
            sent_ids=tuple(range(first_sentence, first_sentence + count)) if self.sent_ids is None else self.sent_ids,
            category_id=self.category_id,
        )

    def _number(self, name: str) -> int | None:
        return whole(self.further, name, self.where) if name in self.further else None


class Split(Protocol):
    """A split file. Entries are read on demand and not kept in memory."""

    name: str

    def __len__(self) -> int: ...

    def entry(self, number: int) -> Entry:
        """Returns an entry. Raises UserError."""
        ...


@dataclass(frozen=True)
class ListedPlace:
    """An entry of the list of images (see etris). read: returns the image file, for images without objects."""

    image_id: str
    name: str
    split: str
    height: int
    width: int
    read: Callable[[], bytes]


def whole(fields: dict[str, Any], name: str, where: str) -> int:
    """Returns a field that is a 64-bit integer. Raises UserError."""
    number = field(fields, name, int, where)
    if abs(number) > LARGEST_NUMBER:
        raise UserError(f"{where}: {name} is not a 64-bit integer; get the file again")
    return number


def listed_places(path: Path, read_of: Callable[[dict[str, Any], str], Callable[[], bytes]]) -> list[ListedPlace] | None:
    """Reads a list of images, in order; None if the file does not exist. Raises UserError."""
    if not path.exists():
        return None
    return [
        ListedPlace(
            image_id=field(entry, "image_id", str, where),
            name=field(entry, "img_name", str, where),
            split=field(entry, "split", str, where),
            height=field(entry, "height", int, where),
            width=field(entry, "width", int, where),
            read=read_of(entry, where),
        )
        for entry, where in entries_of(read_json(path), path)
    ]


def images_of(splits: Sequence[Split], places: list[ListedPlace] | None) -> Iterator[PairImage]:
    """Yields the images of split files, decoding the masks of one image at a time.

    Refs and sentences without stored ids are numbered: from 0 in a split file that stores some ids, otherwise consecutively
    over all files that store none. places: the images in order, including those without objects; None means split by split, in
    the order in which images first appear. Raises UserError.
    """
    groups: dict[tuple[str, str], _Group] = {}
    refs = sentences = 0
    for split in splits:
        counted = _Counted(split)
        first_ref, first_sentence = (0 if counted.has_refs else refs), (0 if counted.has_sentences else sentences)
        refs += 0 if counted.has_refs else len(split)
        sentences += 0 if counted.has_sentences else counted.sentences
        for image_id, numbers in counted.by_image.items():
            groups[split.name, image_id] = _Group(split, numbers, counted.starts, first_ref, first_sentence)
    if places is None:
        yield from (group.image() for group in groups.values())
        return
    for place in places:
        group = groups.pop((place.split, place.image_id), None)
        looks = place.image_id, place.name, place.height, place.width, place.split
        yield group.image() if group else PairImage(*looks, (), place.read)
    if groups:
        split_name, image_id = next(iter(groups))
        raise UserError(f"split {split_name}, image {image_id[:60]!r}: is not in the list of images; get both from one set")


class _Counted:
    """Index of a split file, built before its first image is yielded; its size does not depend on pixels."""

    def __init__(self, split: Split) -> None:
        self.by_image: dict[str, array[int]] = {}
        self.starts = array("q")
        self.sentences = 0
        self.has_refs = self.has_sentences = False
        for number in range(len(split)):
            entry = split.entry(number)
            self.by_image.setdefault(entry.image_id, array("q")).append(number)
            self.starts.append(self.sentences)
            self.sentences += len(entry.sentences)
            self.has_refs |= entry.ref_id is not None
            self.has_sentences |= entry.sent_ids is not None


@dataclass(frozen=True)
class _Group:
    """The entries of one image. numbers: entry numbers.

    starts: for each entry of the file, the number of sentences before it.
    """

    split: Split
    numbers: Sequence[int]
    starts: Sequence[int]
    first_ref: int
    first_sentence: int

    def image(self) -> PairImage:
        entries = [self.split.entry(number) for number in self.numbers]
        first = entries[0]
        for entry in entries:
            if entry.name != first.name:
                raise UserError(f"{entry.where}: img_name differs from that of the image's other objects; get the file again")
        objects = tuple(
            entry.object(self.first_ref + number, self.first_sentence + self.starts[number])
            for entry, number in zip(entries, self.numbers, strict=True)
        )
        height, width = objects[0].mask.size
        return PairImage(first.image_id, first.name, height, width, self.split.name, objects, first.read_image)
