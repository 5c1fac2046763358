"""Reads and writes gRefCOCO sets (`grefs(unc).json` with `instances.json`), whose refs have 0, 1 or more targets."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from pseudo_ris.errors import UserError
from pseudo_ris.formats.instances import SEPARATE, Instances, InstancesWriter, PlacedRef
from pseudo_ris.formats.outputs import new_folder
from pseudo_ris.formats.refer_set import SPLIT_BY, find_refs, instances_content, ref_entry, write_refer_files
from pseudo_ris.formats.refs import INSTANCES
from pseudo_ris.io.json_fields import entries_of, field, read_json
from pseudo_ris.io.safe_paths import images_beside
from pseudo_ris.pairs.pair_set import NO_CATEGORY, PairImage, PairObject

NO_TARGET = -1
MASK_NUMBERS = ("object_id", "seg_id", "category_id")


def read_grefcoco(path: Path, images: Path | None = None) -> Iterator[PairImage]:
    """Yields the images of a gRefCOCO set in the order in which its refs name them; sentences come from `sent`.

    The mask of a ref is the union of its targets, or empty without targets. Unions and empty masks without ids in the file get
    ids above all ids of the file; the category of a union is that of its first target.
    path: the grefs file, its folder, or the parent folder. images: folder of the images; default: `images` in `path`.
    Raises UserError that names the file, entry and field.
    """
    refs_path = find_refs(path, "grefs(*).json")
    instances = Instances(refs_path.with_name(INSTANCES))
    entries = list(entries_of(read_json(refs_path), refs_path))
    numbers = _MaskNumbers(instances, entries)
    refs = [_placed(entry, instances, numbers, where) for entry, where in entries]
    found = dict.fromkeys((ref.image, ref.split) for ref in refs)
    yield from instances.assemble(refs, list(found), images_beside(path, images))


class _MaskNumbers:
    """Assigns object ids to masks that are not a single annotation; equal targets get equal ids."""

    def __init__(self, instances: Instances, entries: Iterable[tuple[dict[str, Any], str]]) -> None:
        given = [_stored_ids(entry, where)["object_id"] for entry, where in entries if "mask" in entry]
        self._free = count(max([0, *instances.annotations, *given]) + 1)
        self._numbers: dict[tuple[int, tuple[int, ...]], int] = {}

    def of(self, image: int, targets: tuple[int, ...]) -> int:
        key = image, tuple(sorted(targets))
        if key not in self._numbers:
            self._numbers[key] = next(self._free)
        return self._numbers[key]


def _placed(entry: dict[str, Any], instances: Instances, numbers: _MaskNumbers, where: str) -> PlacedRef:
    image = field(entry, "image_id", int, where)
    targets = tuple(number for number in dict.fromkeys(_numbers(entry, "ann_id", where)) if number != NO_TARGET)
    for number in targets:
        instances.annotation(number, image, where)
    sentences = list(entries_of(entry, Path(where), "sentences"))
    return PlacedRef(
        ref_id=field(entry, "ref_id", int, where),
        image=image,
        split=field(entry, "split", str, where),
        annotations=targets,
        sentences=tuple(field(sentence, "sent", str, place) for sentence, place in sentences),
        sent_ids=tuple(field(sentence, "sent_id", int, place) for sentence, place in sentences),
        **_mask_numbers(entry, targets, instances, numbers, image, where),
    )


def _mask_numbers(
    entry: dict[str, Any], targets: tuple[int, ...], instances: Instances, numbers: _MaskNumbers, image: int, where: str
) -> dict[str, int]:
    """Returns object_id, seg_id and category_id of a ref's mask."""
    if len(targets) != 1 and "mask" in entry:
        return _stored_ids(entry, where)
    category = next(iter(_numbers(entry, "category_id", where)), NO_TARGET) if targets else NO_CATEGORY
    if len(targets) == 1:
        return {"object_id": targets[0], "seg_id": instances.seg_id(targets[0]), "category_id": category}
    number = numbers.of(image, targets)
    return {"object_id": number, "seg_id": number, "category_id": category}


def _stored_ids(entry: dict[str, Any], where: str) -> dict[str, int]:
    mask = field(entry, "mask", dict, where)
    return {name: field(mask, name, int, f"{where}: mask") for name in MASK_NUMBERS}


def _numbers(entry: dict[str, Any], name: str, where: str) -> list[int]:
    """Returns a field that is an integer or a list of integers, as a list. Raises UserError."""
    value = entry.get(name)
    values = value if isinstance(value, list) else [value]
    if not all(type(number) is int for number in values):
        raise UserError(f"{where}: {name} is neither an integer nor a list of integers; get the file again")
    return values


def write_grefcoco(out: Path, images: Iterable[PairImage], dataset: str, copy_images: bool = False) -> None:
    """Writes a gRefCOCO set. An empty mask becomes a ref without target; the ref's field `mask` keeps its ids.

    A union of objects of the set becomes a ref with these targets; a union of others gets an annotation of its own. Raises
    UserError.
    """
    writer = InstancesWriter(images, str(out))
    annotations = {number: entry for number, entry in writer.annotations().items() if entry["area"]}
    if NO_TARGET in annotations:
        raise UserError(f"{out}: object_id {NO_TARGET} means no target in gRefCOCO; give the object another id")
    single = {each.object_id: each.category_id for image in writer.set for each in image.objects if not each.targets}
    unions = {each.object_id for image in writer.set for each in image.objects if _is_union(each, single)}
    refs = [
        ref_entry(each, image, writer) | _target(each, single, each.object_id in annotations)
        for image in writer.set
        for each in image.objects
    ]
    annotations = {number: entry for number, entry in annotations.items() if number not in unions}
    content = instances_content(writer, annotations, refs)
    with new_folder(out) as folder:
        data = json.dumps(refs, separators=SEPARATE).encode()
        write_refer_files(folder, dataset, content, f"grefs({SPLIT_BY}).json", data)
        if copy_images:
            writer.copy_images(folder)


def _is_union(each: PairObject, single: Mapping[int, int]) -> bool:
    """Whether an object is the union of objects that are in the set. single: their ids."""
    return bool(each.targets) and single.keys() >= set(each.targets)


def _target(each: PairObject, single: Mapping[int, int], has_target: bool) -> dict[str, Any]:
    """The fields of a ref that say what it means. single: category of each object that is not a union."""
    mask = {name: getattr(each, name) for name in MASK_NUMBERS}
    if _is_union(each, single):
        return {"ann_id": list(each.targets), "category_id": [single[number] for number in each.targets], "mask": mask}
    if has_target:
        return {"ann_id": [each.object_id], "category_id": [each.category_id]}
    return {"ann_id": [NO_TARGET], "category_id": [NO_TARGET], "no_target": True, "mask": mask}
