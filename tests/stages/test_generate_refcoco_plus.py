"""scripts/generate_refcoco_plus.sh on a made-up REFER set of drawn scenes, with the embedded models on the CPU."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from generate_masks.cutler_sam_masks import main as generate_masks
from generate_pseudo_supervision.distinctive_caption_generation import main as generate_captions
from pseudo_ris.pairs.assembly import read_pairs
from pseudo_ris.runtime.runs import EXIT_FAILURES, read_failures

ROOT = Path(__file__).parents[2]
NAME = "distinctive_captions_cc3m"
TRAIN, BROKEN, OTHER = (7, 11, 12, 30), 12, 13

pytestmark = pytest.mark.slow


def coco_name(image_id: int) -> str:
    return f"COCO_train2014_{image_id:012d}.jpg"


@pytest.fixture
def workplace(demo_images, tmp_path) -> Path:
    """A checkout with a ready .venv (this interpreter), and beside it data/train2014 and data/refcoco+."""
    checkout = tmp_path / "checkout"
    for name in ("generate_masks", "generate_pseudo_supervision", "configs", "pyproject.toml", "constraints.txt"):
        checkout.mkdir(exist_ok=True)
        (checkout / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "scripts", checkout / "scripts")
    content = (ROOT / "pyproject.toml").read_bytes() + (ROOT / "constraints.txt").read_bytes()
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / ".installed-").write_text(f"{hashlib.sha256(content).hexdigest()}  -\n")
    (checkout / ".venv" / "bin" / "python").symlink_to(sys.executable)
    python_dir = Path(sys.executable).parent
    (checkout / ".venv" / "bin" / "activate").write_text(f"export PATH='{python_dir}':$PATH PYTHONPATH='{ROOT}'\n")

    images, refer = tmp_path / "data" / "train2014", tmp_path / "data" / "refcoco+"
    images.mkdir(parents=True)
    refer.mkdir()
    for image_id, path in zip((*TRAIN, OTHER), sorted(demo_images.iterdir()), strict=False):
        shutil.copy(path, images / coco_name(image_id))  # decoders look at the content, not at the suffix
    (images / coco_name(BROKEN)).write_bytes(b"no image")
    refs = [
        {
            "ref_id": number,
            "ann_id": 100 + number,
            "category_id": 1,
            "image_id": image_id,
            "file_name": coco_name(image_id).replace(".jpg", f"_{number}.jpg"),
            "split": "val" if image_id == OTHER else "train",
            "sent_ids": [number],
            "sentences": [{"sent_id": number, "sent": "it", "raw": "it", "tokens": ["it"]}],
        }
        for number, image_id in enumerate((*TRAIN, OTHER, TRAIN[0]))
    ]
    (refer / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    entries = [{"id": image_id, "file_name": coco_name(image_id)} for image_id in (*TRAIN, OTHER)]
    (refer / "instances.json").write_text(json.dumps({"images": entries, "annotations": [], "categories": []}))
    return tmp_path


def command(workplace: Path, *options: str) -> list[str]:
    script = workplace / "checkout" / "scripts" / "generate_refcoco_plus.sh"
    return ["bash", str(script), "--config", str(ROOT / "configs" / "demo.yaml"), *options]


def surroundings(**variables: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **variables}


def run(workplace: Path, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(workplace, *options), cwd=workplace, env=surroundings(**variables), capture_output=True, text=True
    )


def results(output: Path) -> dict[str, bytes]:
    files = [path for part in ("masks", "pairs") for path in sorted((output / part).rglob("*")) if path.is_file()]
    return {path.relative_to(output).as_posix(): path.read_bytes() for path in files}


def started(workplace: Path, **variables: str) -> subprocess.Popen[str]:
    """The script as a process group of its own, once it has made some masks."""
    process = subprocess.Popen(
        command(workplace),
        cwd=workplace,
        env=surroundings(**variables),
        start_new_session=True,
        # What a shell's script starts in the background ignores it, and so would all that is started from there.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while process.poll() is None and not list((workplace / variables["OUTPUT"] / "masks" / "_meta").glob("*.json")):
        time.sleep(0.01)
    return process


def by_hand(workplace: Path) -> dict[str, bytes]:
    """What the two recipes make, called one after the other; OUTPUT is `out`, as failures.csv names it, and gone afterwards.

    With the script's number of threads: scores differ in their last digits with that number.
    """
    torch.set_num_threads(1)
    options = ["--images", "data/train2014", "--refer", "data/refcoco+/refs(unc).p", "--masks", "out/masks"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workplace)
        assert generate_masks(options) == EXIT_FAILURES
        assert generate_captions([*options, "--output", "out/pairs"]) == EXIT_FAILURES
    expected = results(workplace / "out")
    shutil.rmtree(workplace / "out")
    return expected


def test_two_processes_give_one_process_s_files_also_when_stopped_and_started_again(workplace):
    expected = by_hand(workplace)
    killed = started(workplace, OUTPUT="out", PROCESSES="2")
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    done = run(workplace, OUTPUT="out", PROCESSES="2")
    assert done.returncode == EXIT_FAILURES, done.stderr
    assert done.stdout.splitlines()[-1] == f"the pairs of refcoco+ are in out/pairs/{NAME}.csv"
    assert results(workplace / "out") == expected
    logs = {f"{stage}{process}.log" for stage in ("masks", "pairs") for process in ("", ".0", ".1")}
    assert {path.name for path in (workplace / "out" / "logs").iterdir()} == logs
    rows = read_pairs(workplace / "out" / "pairs" / f"{NAME}.csv")
    assert {row["img_id"] for row in rows} <= {str(image_id) for image_id in TRAIN}
    assert [failure.image for failure in read_failures(workplace / "out" / "pairs" / "failures.csv")] == [coco_name(BROKEN)]
    done = run(workplace, OUTPUT="out")
    assert done.stdout.count("0 made, 3 reused, 1 failed") == 2
    assert results(workplace / "out") == expected


def test_an_interrupt_stops_all_processes(workplace):
    process = started(workplace, OUTPUT="out", PROCESSES="2")
    assert process.poll() is None
    os.kill(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert said.splitlines()[-1] == "stopped; the same command goes on where this one was"
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_a_process_that_cannot_work_stops_the_script_with_its_reason(workplace):
    (workplace / "data" / "train2014" / coco_name(TRAIN[1])).unlink()
    done = run(workplace, PROCESSES="2", OUTPUT="out")
    assert done.returncode == 2
    assert f"1 of {len(TRAIN)} listed images are missing; first: '{coco_name(TRAIN[1])}'" in done.stderr
    assert "error: a process of masks ended early (exit code 2)" in done.stderr
    assert not (workplace / "out" / "pairs").exists()


def test_each_process_gets_a_visible_gpu_of_its_own(workplace):
    """`python` is stood in for by a command that notes what it is given: no GPU is needed."""
    stand_in = workplace / "bin"
    stand_in.mkdir()
    (stand_in / "python").write_text(f'#!/bin/sh\necho "$CUDA_VISIBLE_DEVICES $*" >>"{workplace}/calls"\n')
    (stand_in / "python").chmod(0o755)
    (workplace / "checkout" / ".venv" / "bin" / "activate").write_text(f"export PATH='{stand_in}':$PATH\n")
    done = run(workplace, CUDA_VISIBLE_DEVICES="3,5", OUTPUT="out")
    assert done.returncode == 0, done.stderr
    calls = [line.split() for line in (workplace / "calls").read_text().splitlines()]
    shares = [(call[0], call[-1] if call[-2] == "--shard" else "all") for call in calls]
    assert [sorted(shares[:2]), shares[2]] == [[("3", "0/2"), ("5", "1/2")], ("3", "all")]
    assert [sorted(shares[3:5]), shares[5:]] == [[("3", "0/2"), ("5", "1/2")], [("3", "all")]]
