"""Both stages with every model at full size and random weights, on one photograph."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pseudo_ris.distinctiveness.places import PLACE
from pseudo_ris.pairs.assembly import read_pairs

ROOT = Path(__file__).parents[2]
PHOTOGRAPH = ROOT / "tests" / "parity" / "golden" / "cutler" / "image_0.jpg"
# Fewer prompts, objects and tokens than the presets': the models are full size, the work is not.
FEWER_MASKS = ("--sam.points_per_side", "2", "--cutler.score_threshold", "0.63")
FEWER_TOKENS = (
    *("--decoding.min_length", "2", "--decoding.max_length", "4", "--decoding.beams", "2", "--decoding.beam_groups", "2"),
    *("--decoding.top_k", "[5]", "--decoding.top_p", "[0.4]"),
)

pytestmark = pytest.mark.slow


def run(*command: str) -> str:
    finished = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def peak_gib(output: str) -> float:
    return float(re.search(r"peak memory ([\d.]+) GiB", output)[1])


def test_full_size_models_run_both_stages_within_16_gib(tmp_path):
    (tmp_path / "images").mkdir()
    shutil.copy(PHOTOGRAPH, tmp_path / "images")
    folders = ("--images", str(tmp_path / "images"), "--masks", str(tmp_path / "masks"))
    common = ("--weights", "random", "--device", "cpu", *folders)
    first = run("generate_masks/cutler_sam_masks.py", *common, *FEWER_MASKS)
    assert "cutler resnet50_fpn, sam vit_h on cpu (random weights" in first
    second = run(
        "generate_pseudo_supervision/distinctive_caption_generation.py", *common, "--output", str(tmp_path), *FEWER_TOKENS
    )
    assert "coca coca_ViT-L-14, clip RN50 on cpu (random weights" in second
    masks = list((tmp_path / "masks" / "image_0").iterdir())
    rows = read_pairs(tmp_path / "distinctive_captions_cc3m.csv")
    assert len(rows) == len(masks) >= 2
    assert all(len(row["strategy"]) - row["strategy"].count(PLACE) == 4 * 3 and all(row["pseudo_caption"]) for row in rows)
    assert 2 < peak_gib(first) < 16  # the largest model alone has 2.4 GiB
    assert 2 < peak_gib(second) < 16
