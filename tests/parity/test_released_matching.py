"""configs/paper.yaml replaces CutLER masks by the SAM masks that the release takes (golden/released_matching)."""

from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import pytest
from coca_recipe import GOLDEN

from pseudo_ris.config import MaskGenerationConfig, MatchingConfig
from pseudo_ris.masks.matching import match_masks
from pseudo_ris.stages.settings import parse_config

PAPER = Path(__file__).parents[2] / "configs" / "paper.yaml"


@pytest.fixture(scope="module")
def cases():
    """Of each case: kind, CutLER masks, SAM masks, number of the SAM mask chosen for each CutLER mask."""
    golden = np.load(GOLDEN / "released_matching" / "cases.npz")
    height, width = golden["size"]
    cutler, sam = (
        np.unpackbits(golden[name], axis=1, count=height * width).reshape(-1, height, width).astype(bool)
        for name in ("cutler", "sam")
    )
    of_cutler, of_sam = (
        [slice(*ends) for ends in pairwise(accumulate(golden[name], initial=0))] for name in ("cutler_count", "sam_count")
    )
    return [
        (str(kind), cutler[ours], sam[theirs], golden["chosen"][ours])
        for kind, ours, theirs in zip(golden["kind"], of_cutler, of_sam, strict=True)
    ]


def chosen(cutler, sam, config):
    return [match.sam_index for match in match_masks(cutler, sam, config)]


def test_every_choice(cases):
    paper = parse_config(MaskGenerationConfig, ["--config", str(PAPER)]).matching
    assert sum(len(cutler) for _, cutler, _, _ in cases) == 93
    for kind, cutler, sam, expected in cases:
        assert chosen(cutler, sam, paper) == expected.tolist(), kind


def test_the_cases_tell_the_rules_apart(cases):
    """Our ties and our answer to a mask without overlap give other choices, each in the cases made for it."""
    other = {
        name: {kind for kind, cutler, sam, expected in cases if chosen(cutler, sam, config) != expected.tolist()}
        for name, config in (
            ("ties", MatchingConfig("intersection", False, 0.0, "other_measure", "first")),
            ("no overlap", MatchingConfig("intersection", False, 0.0, "first", "keep")),
        )
    }
    assert "apart" in other["no overlap"] and not other["no overlap"] & {"random", "nested", "part"}
    assert {"nested", "part"} <= other["ties"] and "random" not in other["ties"]
