"""Both stages with the embedded models on inputs and surroundings that go wrong."""

from __future__ import annotations

import csv
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from generate_masks.cutler_sam_masks import main as generate_masks
from generate_pseudo_supervision.distinctive_caption_generation import main as generate_captions
from pseudo_ris.errors import UserError
from pseudo_ris.pairs.assembly import read_pairs
from pseudo_ris.runtime.runs import EXIT_FAILURES, read_failures

ROOT = Path(__file__).parents[2]
STAGE1 = ROOT / "generate_masks" / "cutler_sam_masks.py"
STAGE2 = ROOT / "generate_pseudo_supervision" / "distinctive_caption_generation.py"
NAME = "distinctive_captions_cc3m"
KILLS = 2
FEWER_MASKS = ("--sam.points_per_side", "8")
FEWER_TOKENS = ("--decoding.top_k", "[5]", "--decoding.top_p", "[]")

pytestmark = pytest.mark.slow


def stage1(images: Path, masks: Path, *options: str) -> int:
    return generate_masks(["--images", str(images), "--masks", str(masks), *options])


def stage2(images: Path, masks: Path, output: Path, *options: str) -> int:
    return generate_captions(["--images", str(images), "--masks", str(masks), "--output", str(output), *options])


def some_scenes(demo_images: Path, folder: Path, count: int) -> Path:
    folder.mkdir()
    for path in sorted(demo_images.iterdir())[:count]:
        shutil.copy(path, folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def kill_while_it_works(command: list[str], results: Path, pattern: str, rng: random.Random) -> bool:
    """Starts the command and kills it after it has written one to three more results; False when it ended before."""
    before = len(list(results.glob(pattern)))
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
    wanted = before + rng.randint(1, 3)
    while process.poll() is None and len(list(results.glob(pattern))) < wanted:
        time.sleep(0.005)
    time.sleep(rng.random() * 0.1)
    killed = process.poll() is None
    os.kill(process.pid, signal.SIGKILL) if killed else None
    process.wait()
    return killed


def test_killed_several_times_either_stage_ends_byte_identical(demo_images, tmp_path):
    rng = random.Random(0)
    images = some_scenes(demo_images, tmp_path / "images", 12)
    assert stage1(images, tmp_path / "masks", *FEWER_MASKS) == 0
    assert stage2(images, tmp_path / "masks", tmp_path / "pairs", *FEWER_TOKENS) == 0

    command = [sys.executable, str(STAGE1), "--images", str(images), "--masks", str(tmp_path / "masks2"), *FEWER_MASKS]
    killed = sum(kill_while_it_works(command, tmp_path / "masks2" / "_meta", "*.json", rng) for _ in range(KILLS))
    assert stage1(images, tmp_path / "masks2", *FEWER_MASKS) == 0
    assert contents(tmp_path / "masks2") == contents(tmp_path / "masks")

    output = tmp_path / "pairs2"
    command = [
        sys.executable,
        str(STAGE2),
        "--images",
        str(images),
        "--masks",
        str(tmp_path / "masks2"),
        "--output",
        str(output),
        *FEWER_TOKENS,
    ]
    killed += sum(kill_while_it_works(command, output / f"{NAME}.parts", "*.json", rng) for _ in range(KILLS))
    assert stage2(images, tmp_path / "masks2", output, *FEWER_TOKENS) == 0
    assert contents(output) == contents(tmp_path / "pairs")
    assert killed >= 2 * KILLS - 1, "nearly all kills must hit a run at work"


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def awkward_images(demo_images, tmp_path) -> Path:
    """Readable and unreadable images, made from the drawn scenes."""
    folder = some_scenes(demo_images, tmp_path / "awkward", 1)
    scenes = [Image.open(path).convert("RGB") for path in sorted(demo_images.iterdir())[:6]]
    jpeg = encoded(scenes[1], "JPEG", quality=95)
    rotation = Image.Exif()
    rotation[0x0112] = 6
    deep = np.asarray(scenes[2].convert("L")).astype(np.uint16) * 257
    files = {
        "truncated.jpg": jpeg[: len(jpeg) // 2],
        "empty.jpg": b"",
        "text.jpg": b"this is a text file named .jpg\n" * 20,
        "deep.png": encoded(Image.fromarray(deep), "PNG"),
        "grey.png": encoded(scenes[3].convert("L"), "PNG"),
        "rgba.png": encoded(scenes[4].convert("RGBA"), "PNG"),
        "one_pixel.png": encoded(Image.new("RGB", (1, 1)), "PNG"),
        "rotated.jpg": encoded(scenes[5].resize((320, 200)), "JPEG", exif=rotation),
        "whole.jpg": jpeg,
        "Failures.CSV.png": encoded(scenes[1], "PNG"),
        "caf\udce9.jpg": jpeg,
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def test_bad_images_are_recorded_and_none_stops_the_others(awkward_images, tmp_path):
    masks, output = tmp_path / "masks", tmp_path / "pairs"
    bad = {"truncated.jpg", "empty.jpg", "text.jpg", "one_pixel.png", "Failures.CSV.png", r"caf\xe9.jpg"}
    assert stage1(awkward_images, masks) == EXIT_FAILURES
    assert {failure.image for failure in read_failures(masks / "failures.csv")} == bad
    with (masks / "failures.csv").open(newline="") as file:
        assert {"image_id", "image", "reason"} <= set(next(iter(csv.DictReader(file))))
    assert stage2(awkward_images, masks, output, *FEWER_TOKENS) == EXIT_FAILURES
    reasons = {failure.image: failure.reason for failure in read_failures(output / "failures.csv")}
    assert reasons.keys() == bad
    assert "generate_masks failed on this image (text.jpg: not a readable image" in reasons["text.jpg"]
    rows = read_pairs(output / f"{NAME}.csv")
    good = {"deep.png", "grey.png", "rgba.png", "rotated.jpg", "scene_00000.png", "whole.jpg"}
    assert {row["img_name"] for row in rows} | without_masks(masks) == good
    rotated = cv2.imread(str(next((masks / "rotated").glob("*.png"))), cv2.IMREAD_UNCHANGED)
    assert rotated.shape == (320, 200), "masks of an EXIF-rotated photo stand upright"
    for name in ("caf\udce9.jpg", "Failures.CSV.png"):
        (awkward_images / name).unlink()
    (awkward_images / "truncated.jpg").write_bytes((awkward_images / "whole.jpg").read_bytes())
    assert stage1(awkward_images, masks, "--retry-failed") == EXIT_FAILURES
    assert {failure.image for failure in read_failures(masks / "failures.csv")} == {"empty.jpg", "text.jpg", "one_pixel.png"}
    assert (masks / "_meta" / "truncated.json").exists()


def without_masks(masks: Path) -> set[str]:
    return {path.stem + ".png" for path in (masks / "_meta").glob("*.json") if not (masks / path.stem).exists()}


@pytest.fixture(scope="module")
def three_scenes(demo_images, tmp_path_factory) -> tuple[Path, Path, Path]:
    """Images, their masks and their pairs, with few tokens; not to be changed."""
    folder = tmp_path_factory.mktemp("three")
    images = some_scenes(demo_images, folder / "images", 3)
    assert stage1(images, folder / "masks") == 0
    assert stage2(images, folder / "masks", folder / "pairs", *FEWER_TOKENS) == 0
    return images, folder / "masks", folder / "pairs"


def test_rows_belong_to_existing_masks_also_when_some_are_blank(three_scenes, tmp_path):
    """Blank masks before, between and after the others: no seg_id moves, and its pixels decide its row."""
    images, masks, output = three_scenes
    plain = {(row["img_id"], row["seg_id"]): row for row in read_pairs(output / f"{NAME}.csv")}
    assert plain
    shifted = tmp_path / "shifted"
    for folder in (path for path in masks.iterdir() if path.is_dir() and path.name != "_meta"):
        (shifted / folder.name).mkdir(parents=True)
        for number, path in enumerate(sorted(folder.glob("*.png"), key=lambda path: int(path.stem))):
            blank = np.full((256, 256), 255 * (number % 2), np.uint8)
            cv2.imwrite(str(shifted / folder.name / f"{2 * number}.png"), blank)
            shutil.copy(path, shifted / folder.name / f"{2 * number + 1}.png")
    stage2(images, shifted, tmp_path / "pairs2", *FEWER_TOKENS)
    moved = read_pairs(tmp_path / "pairs2" / f"{NAME}.csv")
    assert {(row["img_id"], (row["seg_id"] - 1) // 2) for row in moved} == set(plain)
    for row in moved:
        assert (shifted / row["img_id"] / f"{row['seg_id']}.png").exists()
        before = plain[row["img_id"], (row["seg_id"] - 1) // 2]
        beam = [place for place, strategy in enumerate(row["strategy"]) if strategy == "beam"]
        assert [row["pseudo_caption"][place] for place in beam] == [before["pseudo_caption"][place] for place in beam]


def test_thin_blank_and_wrong_masks(demo_images, tmp_path):
    images, masks = some_scenes(demo_images, tmp_path / "images", 4), tmp_path / "masks"
    thin, blank, wrong, _ = (image.stem for image in sorted(images.iterdir()))
    line = np.zeros((256, 256), np.uint8)
    line[40:90, 100] = 255
    block = np.zeros((256, 256), np.uint8)
    block[100:180, 20:90] = 255
    for image_id, pngs in {thin: [line, block], blank: [line * 0, line * 0 + 255], wrong: [line[:100]]}.items():
        (masks / image_id).mkdir(parents=True)
        for number, pixels in enumerate(pngs):
            cv2.imwrite(str(masks / image_id / f"{number}.png"), pixels)
    assert stage2(images, masks, tmp_path / "pairs", *FEWER_TOKENS) == EXIT_FAILURES
    rows = read_pairs(tmp_path / "pairs" / f"{NAME}.csv")
    assert [(row["img_id"], row["seg_id"]) for row in rows] == [(thin, 0), (thin, 1)]
    reasons = [failure.reason for failure in read_failures(tmp_path / "pairs" / "failures.csv")]
    assert ["blank" in reasons[0], "256x100" in reasons[1], "no masks in" in reasons[2]] == [True] * 3


def test_changed_settings_never_mix_rows(three_scenes, tmp_path):
    images, masks, pairs = three_scenes
    changed = ("--decoding.seed", "1", "--decoding.top_k", "[]", "--decoding.top_p", "[0.9]")
    shutil.copytree(pairs, tmp_path / "a")
    stage2(images, masks, tmp_path / "a", *changed)
    stage2(images, masks, tmp_path / "b", *changed)
    assert contents(tmp_path / "a") == contents(tmp_path / "b") != contents(pairs)


def test_one_image_at_a_time_gives_the_same_parts(three_scenes, tmp_path):
    images, masks, pairs = three_scenes
    for path in sorted(images.iterdir(), reverse=True):
        (tmp_path / "single").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "single" / path.name)
        stage2(tmp_path / "single", masks, tmp_path / "one", *FEWER_TOKENS)
        (tmp_path / "single" / path.name).unlink()
    stage2(images, masks, tmp_path / "one", *FEWER_TOKENS)
    assert contents(tmp_path / "one") == contents(pairs)


def mounted(folder: Path, *options: str) -> bool:
    folder.mkdir(exist_ok=True)
    return subprocess.run(["mount", *options, str(folder)], capture_output=True).returncode == 0


def can_mount() -> bool:
    return os.geteuid() == 0 and subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0


@pytest.mark.skipif(not can_mount(), reason="mounting a small file system needs root")
def test_full_disk_stops_with_one_line_and_goes_on_afterwards(demo_images, tmp_path, capsys):
    images, masks = some_scenes(demo_images, tmp_path / "images", 8), tmp_path / "masks"
    assert mounted(masks, "-t", "tmpfs", "-o", "size=48k", "tmpfs")
    try:
        with pytest.raises(UserError, match=r"No space left on device; free .*run the same command again"):
            stage1(images, masks, *FEWER_MASKS)
        made = len(list((masks / "_meta").glob("*.json")))
        assert 0 < made < 8
        subprocess.run(["mount", "-o", "remount,size=8m", str(masks)], check=True)
        assert stage1(images, masks, *FEWER_MASKS) == 0
        assert f"{made} reused" in capsys.readouterr().out
        stage1(images, tmp_path / "whole", *FEWER_MASKS)
        assert contents(masks) == contents(tmp_path / "whole")
    finally:
        subprocess.run(["umount", str(masks)], check=True)


@pytest.mark.skipif(not can_mount(), reason="mounting a read-only file system needs root")
def test_read_only_output_is_one_error_before_any_work(demo_images, tmp_path):
    assert mounted(tmp_path / "masks", "-t", "tmpfs", "-o", "ro", "tmpfs")
    try:
        with pytest.raises(UserError, match="Read-only file system"):
            stage1(some_scenes(demo_images, tmp_path / "images", 1), tmp_path / "masks")
    finally:
        subprocess.run(["umount", str(tmp_path / "masks")], check=True)


@pytest.fixture
def one_mask(tmp_path) -> tuple[Path, Path]:
    """A folder of one image, and one of its mask."""
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir()
    Image.new("RGB", (40, 40)).save(images / "a.png")
    (masks / "a").mkdir(parents=True)
    half = np.zeros((40, 40), np.uint8)
    half[:, 20:] = 255
    Image.fromarray(half).save(masks / "a" / "0.png")
    return images, masks


@pytest.mark.parametrize(
    ("stage", "options", "message"),
    [
        (1, ["--imags", "x"], "did you mean images"),
        (1, ["--images", "missing"], "no such folder"),
        (1, ["--sam.points_per_side", "x"], "sam.points_per_side: expected"),
        (1, ["--sam.weights", "pseudo_ris/assets/weights/clip.safetensors"], "not weights of sam"),
        (1, ["--cutler.weights", "nowhere.pth"], "does not exist"),
        (1, ["--cutler.weights", "README.md"], "README.md: not a"),
        (2, ["--masks", "missing"], "run generate_masks"),
        (2, ["--coca.weights", "pseudo_ris/assets/weights/clip.safetensors"], "not weights of coca"),
    ],
)
def test_user_errors_are_one_line(stage, options, message, one_mask, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError) as error:
        stage1(*one_mask, *options) if stage == 1 else stage2(*one_mask, tmp_path / "pairs", *options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("script", [STAGE1, STAGE2])
def test_commands_end_with_exit_code_2_and_nothing_but_the_line(script, one_mask, tmp_path):
    images, masks = map(str, one_mask)
    command = [sys.executable, str(script), "--images", images, "--masks", masks, "--device", "cuda:no"]
    command += ["--output", str(tmp_path / "pairs")] if script == STAGE2 else []
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith("error: --device cuda:no")
