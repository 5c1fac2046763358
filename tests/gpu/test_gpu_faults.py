"""GPUs that are missing, full or broken cost no image and are named in one line: seen on pretended GPUs."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from tests.pretended_gpu.launch import needs_pretended_gpu, run_pretended

CASES = Path(__file__).with_name("gpu_fault_cases.py")
STAGE = Path(__file__).parents[2] / "generate_masks" / "cutler_sam_masks.py"

pytestmark = [pytest.mark.slow, needs_pretended_gpu]


@pytest.fixture(scope="module")
def images(demo_images, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for number in (1, 2):
        shutil.copy(demo_images / f"scene_0000{number}.png", folder)
    return folder


@pytest.fixture(scope="module")
def cases(images, tmp_path_factory) -> dict:
    """What came of each case, and "folder" with their masks."""
    folder = tmp_path_factory.mktemp("masks")
    done = run_pretended([str(CASES), str(images), str(folder)], settings={"GPU_MIB": 400})
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout.splitlines()[-1]), "folder": folder}


def masks_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")}


def test_a_gpu_that_is_missing_is_named(cases):
    assert cases["missing"]["code"].startswith("UserError: --device cuda:7: there is no such GPU; give cuda:0")


def test_models_in_turn_are_read_once_and_draw_the_same_masks(cases):
    assert (cases["in turn"]["code"], cases["in turn"]["reads"]) == (0, 2), "two models, two images"
    drawn = masks_below(cases["folder"] / "in_turn")
    assert drawn
    assert drawn == masks_below(cases["folder"] / "together")


def test_weights_that_do_not_fit_end_the_run_with_remedies(cases):
    code = cases["no room for weights"]["code"]
    assert code.startswith("UserError: the models do not fit in the memory of cuda")
    assert "--residency in_turn" in code
    assert cases["no room for weights"]["failures"] == []


def test_a_passing_lack_of_memory_is_tried_again(cases):
    assert cases["no room to work"]["code"] == 3
    assert [row["key"] for row in cases["no room to work"]["failures"]] == ["", ""]
    assert "out of memory" in cases["no room to work"]["failures"][0]["reason"]
    assert (cases["room again"]["code"], cases["room again"]["failures"]) == (0, [])
    assert masks_below(cases["folder"] / "work") == masks_below(cases["folder"] / "together")


def test_a_broken_gpu_ends_the_run_without_an_engine(cases):
    code = cases["broken"]["code"]
    assert code.startswith("DeviceError: scene_00001.png: GPU cuda:0 failed (CUDA error: device-side assert triggered)")
    assert "nvidia-smi" in code
    assert cases["broken"]["failures"] == []


def test_a_broken_gpu_takes_no_image_from_a_healthy_one(cases, images, tmp_path):
    options = [
        "--images",
        images,
        "--masks",
        tmp_path / "masks",
        "--sam.points_per_side",
        3,
        "--engine",
        "local",
        "--device",
        "cuda",
    ]
    done = run_pretended([str(STAGE), *map(str, options)], settings={"GPUS": 2, "BREAK_AT": 1, "BREAK_GPU": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "worker 0: 2 made" in done.stdout
    assert masks_below(tmp_path / "masks") == masks_below(cases["folder"] / "together")
    with pytest.raises(FileNotFoundError):
        list(csv.DictReader((tmp_path / "masks" / "failures.csv").open()))
