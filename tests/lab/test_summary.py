"""The demo from images to its closing table, on the shipped scenes and weights."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from generate_masks.cutler_sam_masks import main as generate_masks
from generate_pseudo_supervision.distinctive_caption_generation import main as generate_captions
from pseudo_ris.lab.summary import summarise

SCENES = Path(__file__).parents[2] / "datasets" / "demo"
NAME = "distinctive_captions_cc3m"


def figure(lines: list[str], label: str) -> float:
    (line,) = (line for line in lines if label in line)
    return float(re.findall(r"[\d.]+", line)[-1])


@pytest.mark.slow
def test_demo_finds_objects_and_the_filter_helps(tmp_path):
    images, masks, output = str(SCENES / "images"), str(tmp_path / "masks"), str(tmp_path / "pairs")
    assert generate_masks(["--images", images, "--masks", masks]) == 0
    assert generate_captions(["--images", images, "--masks", masks, "--output", output]) == 0
    lines = summarise(SCENES, Path(masks), Path(output), NAME, 1.2)
    assert figure(lines, "images") == 24
    assert figure(lines, "mask IoU >= 0.75") >= 0.8
    assert figure(lines, "after the filter") >= figure(lines, "before the filter") + 0.15
    assert figure(lines, "keep an expression") >= 0.6
    assert figure(lines, "  distinctive expressions    ") >= 0.9
    assert figure(lines, "objects with an expression") >= figure(lines, "keep an expression") + 0.05


def test_without_pairs_it_says_what_to_do(tmp_path):
    (tmp_path / "masks").mkdir()
    assert "run both stages" in summarise(SCENES, tmp_path / "masks", tmp_path / "pairs", NAME, 1.2)[0]
