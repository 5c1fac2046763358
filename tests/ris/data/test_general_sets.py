"""gRefCOCO sets as data of stage 3: several targets or none."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from random_sets import image, thing

from pseudo_ris.cli.main import main
from pseudo_ris.errors import UserError
from pseudo_ris.formats.grefcoco import write_grefcoco
from pseudo_ris.pairs.pair_set import Rle
from pseudo_ris.ris.config import DataConfig
from pseudo_ris.ris.data.splits import split_targets, splits_of


def mask(left: int, width: int) -> np.ndarray:
    found = np.zeros((40, 60), bool)
    found[10:30, left : left + width] = True
    return found


@pytest.fixture
def root(tmp_path):
    """One image: an object, two objects together, and a sentence about nothing."""
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.png"), np.full((40, 60, 3), 120, np.uint8))
    masks = [mask(5, 10), mask(30, 10), mask(5, 10) | mask(30, 10), np.zeros((40, 60), bool)]
    texts = ["the left dog", "the right dog", "both dogs", "the cat"]
    things = tuple(
        thing(number + 1, text, mask=Rle.of(each)) for number, (text, each) in enumerate(zip(texts, masks, strict=True))
    )
    content = [image("1", things, name="a.png", split="val", height=40, width=60)]
    write_grefcoco(tmp_path / "made", content, "grefcoco")
    return tmp_path


def config(root, **changes) -> DataConfig:
    settings = {"dataset": "grefcoco", "refer_root": str(root / "made"), "images": str(root / "images"), **changes}
    return DataConfig(**settings)


def test_masks_are_joined_and_empty_ones_stay(root):
    assert splits_of(config(root)) == ["val"]
    targets = {target.sentences[0]: target for target in split_targets(config(root), "val")}
    assert set(targets) == {"the left dog", "the right dog", "both dogs", "the cat"}
    areas = {text: int(target.read_mask().sum()) for text, target in targets.items()}
    assert areas == {"the left dog": 200, "the right dog": 200, "both dogs": 400, "the cat": 0}
    assert {target.image for target in targets.values()} == {"a.png"}


def test_the_command_prints_grefcocos_figures(root, capsys):
    """On a plain picture no mask is found: every sentence is answered with none."""
    place = [f"--refer_root={root / 'made'}", f"--images={root / 'images'}", "--dataset=grefcoco"]
    assert main(["evaluate", "--model=zero-shot", *place]) == 0
    *table, last = capsys.readouterr().out.splitlines()
    figures = json.loads(last)["splits"]["val"]["original"]
    assert (figures["N-acc"], figures["T-acc"], figures["gIoU"], figures["cIoU"]) == (1.0, 0.0, 0.25, 0.0)
    heads = [line for line in table if "oIoU" in line]
    assert len(heads) == 2 and all("gIoU    cIoU   N-acc   T-acc   count" in line for line in heads)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no data set there; put its grefs\(unc\)\.json and instances\.json there"):
        split_targets(DataConfig(dataset="grefcoco", refer_root=str(tmp_path)), "val")
