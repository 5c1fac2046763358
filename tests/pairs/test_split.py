"""Splits by image."""

from __future__ import annotations

import pytest
from random_sets import image

from pseudo_ris.errors import UserError
from pseudo_ris.pairs.pair_set import split_of, with_splits

IDS = [str(number) for number in range(4000)]


def test_the_share_is_met():
    val = sum(split_of(image_id, 0.2, 5) == "val" for image_id in IDS)
    assert abs(val / len(IDS) - 0.2) < 0.025  # four standard deviations


def test_only_seed_and_id_decide():
    images = [image(image_id) for image_id in IDS[:50]]
    splits = {each.image_id: each.split for each in with_splits(images, 0.5, 1)}
    assert splits == {each.image_id: each.split for each in with_splits(reversed(images[:25]), 0.5, 1)} | {
        each.image_id: each.split for each in with_splits(images[25:], 0.5, 1)
    }
    assert splits != {each.image_id: each.split for each in with_splits(images, 0.5, 2)}
    # A larger share keeps the images that were in val.
    assert all(split_of(image_id, 0.3, 0) == "val" for image_id in IDS if split_of(image_id, 0.1, 0) == "val")


def test_this_seed_gives_these_splits():
    assert [split_of(image_id, 0.5, 0) for image_id in ("9", "900001", "a__b", "")] == ["train", "val", "val", "train"]


def test_no_share_is_all_train():
    assert {each.split for each in with_splits(map(image, IDS[:50]), 0, 0)} == {"train"}


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_an_impossible_share_is_refused(share):
    with pytest.raises(UserError, match="--val-share"):
        with_splits([], share, 0)
