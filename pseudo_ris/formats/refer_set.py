"""Reads and writes REFER sets: `<dataset>/refs(unc).p`, `<dataset>/instances.json` and, if asked, `images/`.

Exports write the exact sentence as `sent` and `raw`, and its words in lower case as `tokens`.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pseudo_ris.errors import UserError
from pseudo_ris.formats.instances import SEPARATE, Instances, InstancesWriter, Place, PlacedRef
from pseudo_ris.formats.outputs import check_dataset, new_folder
from pseudo_ris.formats.refs import INSTANCES, Ref, read_refs
from pseudo_ris.io.safe_paths import images_beside
from pseudo_ris.pairs.pair_set import PairImage, PairObject

SPLIT_BY = "unc"
PROTOCOL = 2
"""Pickle protocol of REFER's own files; Python 2 can read it."""
WORD = re.compile(r"\w+(?:'\w+)*")


def read_refer(path: Path, images: Path | None = None) -> Iterator[PairImage]:
    """Yields the images of a REFER set in the order in which its refs name them; sentences come from `sent`.

    path: the refs file, its folder, or the parent folder. images: folder of the images; default: `images` in `path`.
    Runs no pickle code. Raises UserError that names the file, entry and field.
    """
    refs_path = find_refs(path, "refs(*).p")
    instances = Instances(refs_path.with_name(INSTANCES))
    refs = [_placed(ref, instances, f"{refs_path}, ref {number}") for number, ref in enumerate(read_refs(refs_path))]
    found = dict.fromkeys((ref.image, ref.split) for ref in refs)
    yield from instances.assemble(refs, list(found), images_beside(path, images))


def find_refs(path: Path, pattern: str) -> Path:
    """Returns `path` if it is a file, otherwise the only matching file in `path` or its subfolders. Raises UserError."""
    if path.is_file():
        return path
    found = sorted(path.glob(pattern)) or sorted(path.glob(f"*/{pattern}"))
    if len(found) != 1:
        names = ", ".join(str(each.relative_to(path)) for each in found[:3]) or "none"
        raise UserError(f"{path}: must contain one {pattern}, has {names}; give the file itself")
    return found[0]


def _placed(ref: Ref, instances: Instances, where: str) -> PlacedRef:
    instances.annotation(ref.ann_id, ref.image_id, where)
    return PlacedRef(
        ref_id=ref.ref_id,
        image=ref.image_id,
        split=ref.split,
        annotations=(ref.ann_id,),
        object_id=ref.ann_id,
        seg_id=instances.seg_id(ref.ann_id),
        category_id=ref.category_id,
        sentences=tuple(sentence.sent for sentence in ref.sentences),
        sent_ids=tuple(sentence.sent_id for sentence in ref.sentences),
    )


def write_refer(out: Path, images: Iterable[PairImage], dataset: str, copy_images: bool = False) -> None:
    """Writes a REFER set that REFER(out, dataset, 'unc') loads. Raises UserError."""
    writer = InstancesWriter(images, str(out))
    refs = [
        ref_entry(each, image, writer) | {"ann_id": each.object_id, "category_id": each.category_id}
        for image in writer.set
        for each in image.objects
    ]
    content = instances_content(writer, writer.annotations(), refs)
    with new_folder(out) as folder:
        write_refer_files(folder, dataset, content, f"refs({SPLIT_BY}).p", pickle.dumps(refs, PROTOCOL))
        if copy_images:
            writer.copy_images(folder)


def ref_entry(each: PairObject, image: PairImage, writer: InstancesWriter) -> dict[str, Any]:
    """Returns a ref in the form of REFER and gRefCOCO, without its target."""
    return {
        "ref_id": each.ref_id,
        "image_id": writer.numbers[image.image_id],
        "file_name": image.name,
        "split": image.split,
        "sent_ids": list(each.sent_ids),
        "sentences": [
            {"sent_id": sent_id, "sent": text, "raw": text, "tokens": WORD.findall(text.lower())}
            for sent_id, text in zip(each.sent_ids, each.sentences, strict=True)
        ],
    }


def instances_content(
    writer: InstancesWriter, annotations: dict[int, dict[str, Any]], refs: Iterable[dict[str, Any]]
) -> dict[str, Any]:
    """Returns the content of the instances.json for these refs."""
    found: dict[Place, list[int]] = {}
    for ref in refs:
        found.setdefault((ref["image_id"], ref["split"]), []).append(ref["ref_id"])
    # REFER's loader expects `segmentation` to be a list, of polygons or of RLEs.
    listed = [entry | {"segmentation": [entry["segmentation"]]} for entry in annotations.values()]
    lists = {"images": writer.images, "annotations": listed, "categories": writer.categories()}
    return lists | writer.pairs(found)


def write_refer_files(folder: Path, dataset: str, content: dict[str, Any], refs_name: str, refs: bytes) -> None:
    """Writes the two files of a set. Raises UserError when `dataset` is not a valid folder name."""
    check_dataset(dataset)
    (folder / dataset).mkdir()
    (folder / dataset / INSTANCES).write_text(json.dumps(content, separators=SEPARATE), encoding="utf-8")
    (folder / dataset / refs_name).write_bytes(refs)
