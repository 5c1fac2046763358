"""Reads and writes COCO files with expressions: annotations with `captions` (texts) and `caption_ids`, images with a `split`.

If an annotation has several refs, or its ref has another id or category, `refs` lists them and divides the captions:
`[{"ref_id", "category_id", "captions": number of captions}, ...]`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from pseudo_ris.errors import UserError
from pseudo_ris.formats.instances import SEPARATE, Instances, InstancesWriter, Place, PlacedRef
from pseudo_ris.formats.outputs import new_folder
from pseudo_ris.io.json_fields import entries_of, field
from pseudo_ris.io.safe_paths import images_beside
from pseudo_ris.pairs.pair_set import PairImage, PairObject

ANNOTATIONS = "pairs.json"
DEFAULT_SPLIT = "train"


def read_coco(path: Path, images: Path | None = None) -> Iterator[PairImage]:
    """Yields the images of a COCO file in file order, with or without annotations; skips crowds, which are not single objects.

    Ordinary COCO files work too: objects without `captions` have no sentences, captions without ids are numbered, and images
    without `split` belong to "train".
    path: the file, or a folder from `write_coco`. images: folder of the images; default: `images` in the folder.
    Raises UserError that names the file, entry and field.
    """
    place = path / ANNOTATIONS if path.is_dir() else path
    instances = Instances(place)
    splits = {number: _split_of(entry, f"{place}, image {number}") for number, entry in instances.images.items()}
    numbers = count()
    refs: list[PlacedRef] = []
    for number, entry in instances.annotations.items():
        if not entry.get("iscrowd"):
            refs += _refs(entry, splits, instances, numbers, f"{place}, annotation {number}")
    yield from instances.assemble(refs, list(splits.items()), images_beside(path, images))


def _split_of(entry: dict[str, Any], where: str) -> str:
    return field(entry, "split", str, where) if "split" in entry else DEFAULT_SPLIT


def _refs(
    entry: dict[str, Any], splits: dict[int, str], instances: Instances, numbers: Iterator[int], where: str
) -> Iterator[PlacedRef]:
    """Yields the refs of an annotation; without `refs` there is one."""
    number, image = entry["id"], field(entry, "image_id", int, where)
    if image not in splits:
        raise UserError(f"{where}: image_id {str(image)[:40]} is not in `images`; get the file again")
    captions = field(entry, "captions", list, where) if "captions" in entry else []
    caption_ids = field(entry, "caption_ids", list, where) if "caption_ids" in entry else [next(numbers) for _ in captions]
    if len(captions) != len(caption_ids):
        raise UserError(f"{where}: {len(captions)} captions but {len(caption_ids)} caption_ids; get the file again")
    at = 0
    for ref_id, category, size in _owners(entry, len(captions), where):
        yield PlacedRef(
            ref_id=ref_id,
            image=image,
            split=splits[image],
            annotations=(number,),
            object_id=number,
            seg_id=instances.seg_id(number),
            category_id=category,
            sentences=tuple(captions[at : at + size]),
            sent_ids=tuple(caption_ids[at : at + size]),
        )
        at += size


def _owners(entry: dict[str, Any], captions: int, where: str) -> list[tuple[int, int, int]]:
    """Returns ref_id, category_id and number of captions of each ref of an annotation. Raises UserError."""
    if "refs" not in entry:
        return [(entry["id"], field(entry, "category_id", int, where), captions)]
    owners = [
        (field(ref, "ref_id", int, place), field(ref, "category_id", int, place), field(ref, "captions", int, place))
        for ref, place in entries_of(entry, Path(where), "refs")
    ]
    sizes = [size for _, _, size in owners]
    if any(size < 0 for size in sizes) or sum(sizes) != captions:
        raise UserError(f"{where}: refs: their caption counts do not add up to {captions}; get the file again")
    return owners


def write_coco(out: Path, images: Iterable[PairImage], copy_images: bool = False) -> None:
    """Writes a new folder with `pairs.json` (masks as compressed RLE) and, if asked, `images/`. Raises UserError."""
    writer = InstancesWriter(images, str(out))
    splits: dict[str, str] = {}
    for image in writer.set:
        splits.setdefault(image.image_id, image.split)
    content = {
        "images": [entry | {"split": split} for entry, split in zip(writer.images, splits.values(), strict=True)],
        "annotations": _annotations(writer),
        "categories": writer.categories(),
    }
    content |= writer.pairs(_found(content))
    with new_folder(out) as folder:
        (folder / ANNOTATIONS).write_text(json.dumps(content, ensure_ascii=False, separators=SEPARATE), encoding="utf-8")
        if copy_images:
            writer.copy_images(folder)


def _annotations(writer: InstancesWriter) -> list[dict[str, Any]]:
    entries = writer.annotations()
    refs: dict[int, list[PairObject]] = {number: [] for number in entries}
    for image in writer.set:
        for each in image.objects:
            refs[each.object_id].append(each)
    return [entry | _captions(number, refs[number]) for number, entry in entries.items()]


def _captions(number: int, refs: Sequence[PairObject]) -> dict[str, Any]:
    """Returns the fields of an annotation that COCO does not define."""
    captions: dict[str, Any] = {
        "captions": [sentence for each in refs for sentence in each.sentences],
        "caption_ids": [sent_id for each in refs for sent_id in each.sent_ids],
    }
    if [each.ref_id for each in refs] != [number]:
        captions["refs"] = [
            {"ref_id": each.ref_id, "category_id": each.category_id, "captions": len(each.sentences)} for each in refs
        ]
    return captions


def _found(content: dict[str, Any]) -> dict[Place, list[int]]:
    """Returns the refs in the order in which a reader finds them (see InstancesWriter.pairs)."""
    splits = {entry["id"]: entry["split"] for entry in content["images"]}
    found: dict[Place, list[int]] = {place: [] for place in splits.items()}
    for entry in content["annotations"]:
        owners = entry.get("refs", [{"ref_id": entry["id"]}])
        found[entry["image_id"], splits[entry["image_id"]]] += [owner["ref_id"] for owner in owners]
    return found
