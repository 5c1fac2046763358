"""Whole REFER sets: `<dataset>/refs(unc).p`, `<dataset>/instances.json` and, when asked for, `images/`.

`sent` and `raw` are both the exact sentence, `tokens` its words in lower case: pairs have one form of a sentence.
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
from pseudo_ris.formats.outputs import check_dataset, copy_image, new_folder
from pseudo_ris.formats.refs import INSTANCES, Ref, read_refs
from pseudo_ris.io.safe_paths import IMAGES, images_beside
from pseudo_ris.pairs.pair_set import PairImage, PairObject

SPLIT_BY = "unc"
PROTOCOL = 2
"""Of pickles, as REFER's own; Python 2 reads it too."""
WORD = re.compile(r"\w+(?:'\w+)*")


def read_refer(path: Path, images: Path | None = None) -> Iterator[PairImage]:
    """Images of a REFER set, in the order in which its refs name them; sentences are `sent`.

    path: the refs file, its folder, or the folder above. images: folder of the images, by default `images` in `path`.
    Raises UserError that names the file, entry and field that do not fit; no pickle code is run.
    """
    refs_path = find_refs(path, "refs(*).p")
    instances = Instances(refs_path.with_name(INSTANCES))
    refs = [_placed(ref, instances, f"{refs_path}, ref {number}") for number, ref in enumerate(read_refs(refs_path))]
    found = dict.fromkeys((ref.image, ref.split) for ref in refs)
    yield from instances.assemble(refs, list(found), images_beside(path, images))


def find_refs(path: Path, pattern: str) -> Path:
    """The refs file that `path` is, or that the folder `path` or one below it holds. Raises UserError."""
    if path.is_file():
        return path
    found = sorted(path.glob(pattern)) or sorted(path.glob(f"*/{pattern}"))
    if len(found) != 1:
        names = ", ".join(str(each.relative_to(path)) for each in found[:3]) or "none"
        raise UserError(f"{path}: must hold one {pattern}, has {names}; give the file that is meant")
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
            for image in writer.set:
                copy_image(image, folder / IMAGES)


def ref_entry(each: PairObject, image: PairImage, writer: InstancesWriter) -> dict[str, Any]:
    """A ref as REFER and gRefCOCO have it, without what it refers to."""
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
    """Content of the instances.json beside a refs file with these refs."""
    found: dict[Place, list[int]] = {}
    for ref in refs:
        found.setdefault((ref["image_id"], ref["split"]), []).append(ref["ref_id"])
    # REFER's loader takes `segmentation` for polygons or a list of run lengths.
    listed = [entry | {"segmentation": [entry["segmentation"]]} for entry in annotations.values()]
    lists = {"images": writer.images, "annotations": listed, "categories": writer.categories()}
    return lists | writer.pairs(found)


def write_refer_files(folder: Path, dataset: str, content: dict[str, Any], refs_name: str, refs: bytes) -> None:
    """Writes the two files of a set. Raises UserError when the data set's name is none of a folder."""
    check_dataset(dataset)
    (folder / dataset).mkdir()
    (folder / dataset / INSTANCES).write_text(json.dumps(content, separators=SEPARATE), encoding="utf-8")
    (folder / dataset / refs_name).write_bytes(refs)
