"""Both stages on a CUDA device."""

from __future__ import annotations

import shutil

import pytest

from generate_masks.cutler_sam_masks import main as generate_masks
from generate_pseudo_supervision.distinctive_caption_generation import main as generate_captions
from pseudo_ris.interchange.pairs import read_pairs

pytestmark = pytest.mark.gpu


def test_both_stages_give_nearly_the_pairs_of_the_cpu(demo_images, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for path in sorted(demo_images.iterdir())[:3]:
        shutil.copy(path, images)
    beams = {}
    for device in ("cpu", "cuda"):
        masks, output = tmp_path / f"masks_{device}", tmp_path / f"pairs_{device}"
        assert generate_masks(["--images", str(images), "--masks", str(masks), "--device", device]) == 0
        options = ["--images", str(images), "--masks", str(tmp_path / "masks_cpu"), "--output", str(output), "--device", device]
        assert generate_captions(options) == 0
        rows = read_pairs(output / "distinctive_captions_cc3m.csv")
        beams[device] = [
            text for row in rows for text, kind in zip(row["pseudo_caption"], row["strategy"], strict=True) if kind == "beam"
        ]
    same = sum(one == other for one, other in zip(beams["cpu"], beams["cuda"], strict=True))
    assert same >= 0.9 * len(beams["cpu"])
