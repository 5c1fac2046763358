"""Adds expressions of several masks and of none to a set of pairs, composed from all candidates of stage 2's CSV."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import count, groupby
from operator import itemgetter
from pathlib import Path

import numpy as np

from pseudo_ris.distinctiveness.groups import GroupExpression, GroupRules, NamedMask, group_expressions
from pseudo_ris.distinctiveness.places import PLACE
from pseudo_ris.errors import UserError
from pseudo_ris.pairs.pair_set import PairImage, PairObject, Rle
from pseudo_ris.pairs.rows import Row, open_pairs

NEEDED = ("noun", "recognition", "strategy")


def read_groups(path: Path, rules: GroupRules | None = None) -> dict[str, list[GroupExpression]]:
    """Composes the expressions of several and of no masks of each image of a pairs CSV: image id -> expressions.

    path: the CSV that stage 2 wrote, with all candidates: what no candidate says of a mask counts as untrue. Raises UserError
    that names the file, row and field.
    """
    columns, rows = open_pairs(path)
    for column in NEEDED:
        if column not in columns:
            raise UserError(f"{path}: no column {column}; run stage 2 again, its CSV has it")
    return {
        image_id: group_expressions([_named(row) for row in own], rules)
        for image_id, own in groupby(rows, itemgetter("img_id"))
    }


def _named(row: Row) -> NamedMask:
    """A row without its composed expressions."""
    kept = [index for index, strategy in enumerate(row["strategy"]) if strategy != PLACE]
    texts, nouns, recognition = (
        tuple(row[name][index] for index in kept) for name in ("pseudo_caption", "noun", "recognition")
    )
    return NamedMask(row["seg_id"], texts, nouns, recognition)


def with_groups(images: Iterable[PairImage], groups: dict[str, list[GroupExpression]]) -> list[PairImage]:
    """Returns the images with a further object for each set of targets, and an empty one for the expressions of none.

    An expression whose masks are not all in the set is left out, and so is every expression of an image that is not in the set.
    New objects get ids above all ids of the set.
    """
    images = list(images)
    each_object = [each for image in images for each in image.objects]
    largest = max((max(each.ref_id, each.object_id, each.seg_id) for each in each_object), default=-1)
    ids = count(largest + 1)
    sentences = count(max((number for each in each_object for number in each.sent_ids), default=-1) + 1)
    result = []
    for image in images:
        added = []
        of_seg_id = {each.seg_id: each for each in image.objects}
        expressions = [each for each in groups.get(image.image_id, ()) if of_seg_id.keys() >= set(each.targets)]
        for targets in dict.fromkeys(each.targets for each in expressions):
            texts = tuple(each.text for each in expressions if each.targets == targets)
            members = [of_seg_id[seg_id] for seg_id in targets]
            number = next(ids)
            added.append(_union(number, members, image, texts, tuple(next(sentences) for _ in texts)))
        result.append(replace(image, objects=(*image.objects, *added)))
    return result


def _union(
    number: int, members: Sequence[PairObject], image: PairImage, texts: tuple[str, ...], sent_ids: tuple[int, ...]
) -> PairObject:
    mask = np.zeros((image.height, image.width), bool)
    for each in members:
        mask |= each.mask.decode()
    union = PairObject(number, number, number, Rle.of(mask), texts, sent_ids)
    if not members:
        return union
    return replace(union, category_id=members[0].category_id, targets=tuple(each.object_id for each in members))
