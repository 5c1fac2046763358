"""A few scenes with every list of them that a stage can take."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import lmdb

DEMO = Path(__file__).parents[2] / "datasets" / "demo"
LEGACY = Path(__file__).parents[1] / "parity" / "golden" / "legacy_lmdb"
NAME = "distinctive_captions_cc3m"
IDS = (7, 11, 30)


def coco_name(image_id: int) -> str:
    return f"COCO_train2014_{image_id:012d}.jpg"


def ref(number: int, image_id: int, **changes) -> dict:
    sentence = {"sent_id": number, "sent": "it", "raw": "it", "tokens": ["it"]}
    entry = {"ref_id": number, "ann_id": number, "category_id": 1, "image_id": image_id, "split": "train"}
    name = coco_name(image_id).replace(".jpg", f"_{number}.jpg")
    return {**entry, "file_name": name, "sent_ids": [number], "sentences": [sentence], **changes}


def lmdb_record(image: Path, **changes) -> dict:
    return {
        "img": image.read_bytes(),
        "mask": b"",
        "cat": 0,
        "seg_id": 1,
        "img_name": image.name,
        "num_sents": 0,
        "sents": [],
        **changes,
    }


def write_lmdb(path: Path, records: list[dict], subdir: bool = False, **items: bytes) -> Path:
    """As CRIS writes them."""
    values = {str(n).encode(): pickle.dumps(record, 5) for n, record in enumerate(records)}
    values |= {b"__keys__": pickle.dumps(list(values), 5), b"__len__": pickle.dumps(len(values), 5)}
    values |= {key.encode(): value for key, value in items.items()}
    with lmdb.open(str(path), subdir=subdir, map_size=1 << 26) as environment, environment.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key, value)
    return path


def touched(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def make_place(place: Path) -> Path:
    """Three scenes named as COCO's images, in a folder with nothing else, and all lists of them, in the folder `place`."""
    images = place / "images"
    images.mkdir()
    for image_id, path in zip(IDS, sorted((DEMO / "images").iterdir()), strict=False):
        shutil.copy(path, images / coco_name(image_id))
    entries = [{"id": image_id, "file_name": coco_name(image_id), "height": 256, "width": 256} for image_id in reversed(IDS)]
    shipped = json.loads((DEMO / "instances.json").read_text())["annotations"]
    annotations = [{**each, "image_id": IDS[each["image_id"] - 1]} for each in shipped if each["image_id"] <= len(IDS)]
    content = {"images": entries, "annotations": annotations, "categories": []}
    (place / "instances.json").write_text(json.dumps(content))
    refs = [ref(each["id"], each["image_id"]) for each in annotations[::2]]
    (place / "refs(unc).p").write_bytes(pickle.dumps([*refs, ref(900, 5, split="val")], 2))
    anns = [{"img_name": coco_name(image_id), "img_id": image_id, "sentences": []} for image_id in (30, 7, 11, 7)]
    (place / "anns.json").write_text(json.dumps(anns))
    records = [lmdb_record(images / coco_name(image_id), img_id=image_id) for image_id in (11, 30, 7, 30)]
    write_lmdb(place / "file.lmdb", records)
    write_lmdb(place / "folder.lmdb", records, subdir=True)
    return place


def settings(place: Path) -> dict[str, dict[str, str]]:
    """Of every source."""
    images = {"images": str(place / "images")}
    return {
        "folder": images,
        "coco": {**images, "coco": str(place / "instances.json")},
        "refer": {**images, "refer": str(place / "refs(unc).p")},
        "anns": {**images, "anns": str(place / "anns.json")},
        "lmdb": {"lmdb": str(place / "file.lmdb")},
        "lmdb folder": {"lmdb": str(place / "folder.lmdb")},
    }


SOURCES = tuple(settings(Path()))
