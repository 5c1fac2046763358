"""Training and evaluation data of stage 3: ground truth of REFER sets, pseudo pairs, or both.

refcocom is the mix of refcoco (unc), refcoco+ (unc) and refcocog (umd). Its training refs are theirs, but for those on images
that a val or test split of any of them has. Its other splits are called `refcoco/val`, `refcocog/test` ...; a name without
a set, `val`, stands for those of all three. A folder refcocom that holds refs of its own is read like any other set instead.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from pseudo_ris.errors import BadInputError, UserError, nearest
from pseudo_ris.formats.grefcoco import read_grefcoco
from pseudo_ris.formats.instances import Instances
from pseudo_ris.formats.refs import INSTANCES, Ref, read_refs
from pseudo_ris.io.images import check_size
from pseudo_ris.io.json_fields import ListedImage, coco_images, read_json
from pseudo_ris.io.segmentation import decode_segmentation
from pseudo_ris.pairs.pair_set import TRAIN
from pseudo_ris.pairs.rows import open_pairs
from pseudo_ris.ris.config import DataConfig
from pseudo_ris.ris.data.targets import Target, targets_of_csv
from pseudo_ris.sources.listing import find_images

MIX, MIX_SPLIT_BY = "refcocom", "mix"
MIXED = {"refcoco": "unc", "refcoco+": "unc", "refcocog": "umd"}
"""The sets that refcocom mixes, each with its default annotation."""
USUAL_SPLIT_BY = {**MIXED, "grefcoco": "unc"}
SPLIT_ORDER = ("train", "val", "test", "testA", "testB")
REFS_FILES = ("grefs(*).json", "refs(*).p")
"""Of a gRefCOCO set, whose refs may have several targets or none, and of any other."""
KINDS = "kinds.json"
"""Beside a refs file, where a set has it: sent_id -> names of the groups that the sentence belongs to."""
SETS_KEPT = 4
"""In memory: the members of a mix and one more. Reading one of refcoco's size takes longer than anything made from it."""


@dataclass(frozen=True)
class SetRef:
    """One ref of a REFER set, with its mask still encoded. image: its file name; for the rest see targets.Target."""

    name: str
    split: str
    image: str
    read_mask: Callable[[], np.ndarray]
    sentences: tuple[str, ...]
    tags: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Splits:
    """Refs by split. left_out: images that would be training images if no other split had them."""

    refs: dict[str, list[SetRef]]
    left_out: int = 0


def training_targets(config: DataConfig, seed: int) -> list[Target]:
    """What is trained on: ground truth of a share of the set's training images, then the pseudo pairs.

    The same seed draws the same images, and for a smaller `fraction` some of those of a larger one; for 0 the set needs no
    training split. Raises UserError in one line: see split_targets; also when there is neither ground truth nor pairs to
    learn from, when the CSV cannot be read, holds no pair or none that passes, or an image or mask of it is missing.
    """
    if not config.dataset and not config.pairs:
        raise UserError("dataset, pairs: neither is given; name a data set of refer_root, a CSV of stage 2, or both")
    if not config.fraction and not config.pairs:
        raise UserError("fraction: 0 takes no ground truth, and there are no pairs; give a CSV of stage 2 or another fraction")
    targets: list[Target] = []
    if config.dataset and config.fraction:
        splits = _read_splits(config)
        if splits.left_out:
            print(f"{config.dataset}: {splits.left_out} training images are left out, val or test splits of its sets have them")
        targets += _targets_of(_share_of(_refs_of(splits, TRAIN, config), config.fraction, seed), config)
    if config.pairs:
        targets += _pseudo_targets(config)
    return targets


def split_targets(config: DataConfig, split: str) -> list[Target]:
    """All refs of a split of the data set, in its order.

    Raises UserError in one line: no such data set, annotation or split (it names those there are), a file of the set that
    does not fit, images that are not in the folder (all are looked for now).
    """
    if not config.dataset:
        raise UserError(f"split {split}: no data set is given to take it from; name one of refer_root with dataset")
    return _targets_of(_refs_of(_read_splits(config), split, config), config)


def splits_of(config: DataConfig) -> list[str]:
    """Names of the data set's splits, train first. Raises UserError as split_targets."""
    return list(_read_splits(config).refs)


def _read_splits(config: DataConfig) -> Splits:
    if config.dataset == MIX and not (Path(config.refer_root) / MIX).is_dir():
        return _mixed(config)
    return Splits(_by_split(_read_set(_refs_path(config, config.dataset, config.split_by))))


def _mixed(config: DataConfig) -> Splits:
    """The mix, see above; an image is told by its file name, since the sets share their images' folder."""
    if config.split_by not in ("", MIX_SPLIT_BY):
        members = ", ".join(f"{name} ({split_by})" for name, split_by in MIXED.items())
        raise UserError(f"split_by {config.split_by}: {MIX} is the mix of {members}; leave it out")
    training: list[SetRef] = []
    others: dict[str, list[SetRef]] = {}
    for name, split_by in MIXED.items():
        splits = _by_split(_read_set(_refs_path(config, name, split_by)))
        training += splits.pop(TRAIN, [])
        others |= {f"{name}/{split}": refs for split, refs in splits.items()}
    held_out = {ref.image for refs in others.values() for ref in refs}
    kept = [ref for ref in training if ref.image not in held_out]
    return Splits({TRAIN: kept, **others}, left_out=len({ref.image for ref in training} & held_out))


def _by_split(refs: Iterable[SetRef]) -> dict[str, list[SetRef]]:
    found: dict[str, list[SetRef]] = defaultdict(list)
    for ref in refs:
        found[ref.split].append(ref)
    order = [*(split for split in SPLIT_ORDER if split in found), *sorted(found.keys() - set(SPLIT_ORDER))]
    return {split: found[split] for split in order}


def _refs_of(splits: Splits, split: str, config: DataConfig) -> list[SetRef]:
    """The refs of a split, or of the split of this name of all sets of a mix. Raises UserError."""
    if split in splits.refs:
        return splits.refs[split]
    joined = [ref for name, refs in splits.refs.items() if name.partition("/")[2] == split for ref in refs]
    if not split or not joined:
        there = ", ".join(splits.refs) or "none at all"
        raise UserError(f"split {split}: {config.dataset} in {config.refer_root} has no such split; it has {there}")
    return joined


def _share_of(refs: Sequence[SetRef], fraction: float, seed: int) -> list[SetRef]:
    """The refs of a share of the images, rounded up; with one seed a larger share contains the smaller ones."""
    images = sorted({ref.image for ref in refs})
    count = math.ceil(round(fraction * len(images), 6))
    drawn = np.random.default_rng(seed).permutation(len(images))[:count]
    kept = {images[number] for number in drawn}
    return [ref for ref in refs if ref.image in kept]


def _targets_of(refs: Sequence[SetRef], config: DataConfig) -> list[Target]:
    """Raises UserError when one of the images is not there."""
    names = {ref.image: ref.image for ref in refs}
    try:
        found = {record.image_id: record.read for record in find_images(Path(config.images), names)}
    except UserError as error:
        raise UserError(f"data set {config.dataset}: {error}") from error
    return [
        Target(ref.name, found[ref.image], ref.read_mask, ref.sentences, ref.tags, ref.image, config.images) for ref in refs
    ]


def _pseudo_targets(config: DataConfig) -> list[Target]:
    pairs = Path(config.pairs)
    images, masks = Path(config.pair_images), Path(config.pair_masks)
    targets = targets_of_csv(pairs, images, masks, config.threshold, config.fallback)
    if not targets and next(open_pairs(pairs)[1], None) is None:
        raise UserError(f"pairs {pairs}: holds no pair; run both stages on images that show objects")
    if not targets:
        raise UserError(f"pairs {pairs}: no expression has a DoC over {config.threshold:g}; lower threshold")
    return targets


def _refs_path(config: DataConfig, dataset: str, split_by: str) -> Path:
    """The refs file of a data set. Raises UserError that names what there is instead."""
    root = Path(config.refer_root)
    if not root.is_dir():
        raise UserError(f"refer_root {root}: no such folder; give the one that holds the folder {dataset}")
    files = [path for pattern in REFS_FILES for path in sorted((root / dataset).glob(pattern))]
    there = {path.name.partition("(")[2].rpartition(")")[0]: path for path in files}
    if not there:
        raise UserError(_no_such_set(root, dataset))
    wanted = split_by or USUAL_SPLIT_BY.get(dataset, "")
    if wanted in there:
        return there[wanted]
    if not split_by and len(there) == 1:
        return next(iter(there.values()))
    raise UserError(f"split_by {split_by!r}: {root / dataset} has the annotations {', '.join(there)}; name one of them")


def _no_such_set(root: Path, dataset: str) -> str:
    if dataset in USUAL_SPLIT_BY:
        refs = "grefs(unc).json" if dataset == "grefcoco" else f"refs({USUAL_SPLIT_BY[dataset]}).p"
        files = f"{refs} and {INSTANCES}"
        return f"{root / dataset}: no data set there; put its {files} there, or give another refer_root"
    there = {path.parent.name for pattern in REFS_FILES for path in root.glob(f"*/{pattern}")}
    closest = nearest(dataset, sorted({*USUAL_SPLIT_BY, MIX, *there}))
    listed = ", ".join(sorted(there)) or "no data set"
    return f"dataset {dataset}: no such data set; did you mean {closest}? ({root} holds {listed})"


@lru_cache(maxsize=SETS_KEPT)
def _read_set(path: Path) -> tuple[SetRef, ...]:
    """The refs of a REFER set that have sentences; instances.json is in the same folder. Raises UserError."""
    if path.suffix == ".json":
        return tuple(_general_refs(path))
    kinds = _read_kinds(path.with_name(KINDS))
    return tuple(_set_refs(read_refs(path), Instances(path.with_name(INSTANCES)), kinds, path))


def _set_refs(refs: Iterable[Ref], instances: Instances, kinds: dict[str, tuple[str, ...]], path: Path) -> Iterator[SetRef]:
    images = coco_images(instances.content, instances.path)
    for number, ref in enumerate(refs):
        where = f"{path}, ref {number}"
        annotation = instances.annotation(ref.ann_id, ref.image_id, where)
        image = images.get(ref.image_id)
        if image is None or image.size is None:
            raise UserError(f"{where}: {instances.path} has no image {ref.image_id} with height and width; get the set again")
        if ref.sentences:
            name = f"{image.name}, ref {ref.ref_id}"
            yield SetRef(
                name=name,
                split=ref.split,
                image=image.name,
                # Text, since lists of points take several times the memory.
                read_mask=partial(_decode_mask, json.dumps(annotation.get("segmentation")).encode(), image, name),
                sentences=tuple(sentence.sent for sentence in ref.sentences),
                tags=tuple(kinds.get(str(sentence.sent_id), ()) for sentence in ref.sentences) if kinds else (),
            )


def _general_refs(path: Path) -> Iterator[SetRef]:
    """The refs of a gRefCOCO set; masks are unions of targets, empty without one. Raises UserError."""
    for image in read_grefcoco(path, None):
        for ref in image.objects:
            if ref.sentences:
                name = f"{image.name}, ref {ref.ref_id}"
                yield SetRef(name, image.split, image.name, ref.mask.decode, ref.sentences, ())


def _decode_mask(segmentation: bytes, image: ListedImage, name: str) -> np.ndarray:
    """Target.read_mask of an annotation, JSON of a COCO segmentation."""
    height, width = image.size
    try:
        check_size(height, width)
        return decode_segmentation(json.loads(segmentation), height, width)
    except BadInputError as error:
        raise BadInputError(f"{name}: {error}; mend or remove the annotation") from error


def _read_kinds(path: Path) -> dict[str, tuple[str, ...]]:
    """Groups by the number of a sentence; nothing where a set has no such file. Raises UserError."""
    if not path.exists():
        return {}
    content: Any = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no groups by sentence; mend or remove the file")
    for sent_id, names in content.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(f"{path}, sentence {sent_id:.40}: is no list of names of groups; mend or remove the file")
    return {sent_id: tuple(names) for sent_id, names in content.items()}
