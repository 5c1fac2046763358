"""Both stages on a Ray cluster of two nodes, one of which is killed half-way: the files of one process."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from pseudo_ris.runtime.runs import EXIT_FAILURES
from pseudo_ris.runtime.status_file import STATUS_FILES
from pseudo_ris.world.coco_writer import write_coco_scenes
from pseudo_ris.world.scenes import draw_scene

ROOT = Path(__file__).parents[3]
SCENES = 24
STORE = 100 << 20
MASKS_OPTIONS = ["--sam.points_per_side", "4"]
PAIRS_OPTIONS = ["--decoding.top_k", "[5]", "--decoding.top_p", "[]", "--decoding.beams", "1", "--decoding.beam_groups", "1"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

pytestmark = pytest.mark.slow


@pytest.fixture
def workplace(tmp_path) -> Path:
    """A checkout with a ready .venv (this interpreter), beside it the scenes and a folder for each kind of run."""
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in ("generate_masks", "generate_pseudo_supervision", "pyproject.toml", "constraints.txt"):
        (checkout / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "scripts", checkout / "scripts")
    content = (ROOT / "pyproject.toml").read_bytes() + (ROOT / "constraints.txt").read_bytes()
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / ".installed-scale").write_text(f"{hashlib.sha256(content).hexdigest()}  -\n")
    (checkout / ".venv" / "bin" / "activate").write_text(f"export PATH='{Path(sys.executable).parent}':$PATH\n")
    for name in ("one", "cluster"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.fixture(scope="module")
def cluster():
    """One node of one core."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")  # or they wait for the one process beside them
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": STORE})
        yield cluster
        cluster.shutdown()


def draw_scenes(workplace: Path, number: int) -> None:
    write_coco_scenes((draw_scene("evaluation", 7, index) for index in range(number)), workplace / "scenes")


def on_the_cluster(workplace: Path, address: str, *options: str) -> subprocess.Popen[bytes]:
    script = workplace / "checkout" / "scripts" / "generate_cluster.sh"
    return subprocess.Popen(
        ["bash", str(script), "--address", address, "--images", "../scenes/images", *options],
        cwd=workplace / "cluster",
        env={**ENVIRONMENT, "OUTPUT": "out"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def in_one_process(workplace: Path) -> None:
    """The two recipes, one after the other."""
    places = ["--images", "../scenes/images", "--masks", "out/masks"]
    for recipe, options in (
        ("generate_masks/cutler_sam_masks.py", MASKS_OPTIONS),
        ("generate_pseudo_supervision/distinctive_caption_generation.py", [*PAIRS_OPTIONS, "--output", "out/pairs"]),
    ):
        command = [sys.executable, str(ROOT / recipe), *places, *options]
        done = subprocess.run(command, cwd=workplace / "one", env=ENVIRONMENT, capture_output=True, text=True)
        assert done.returncode == EXIT_FAILURES, done.stderr


def files(folder: Path) -> dict[str, bytes]:
    """All but what a run says of its times."""
    all_files = {path for path in folder.rglob("*") if path.is_file()} - set(folder.rglob(STATUS_FILES))
    return {str(path.relative_to(folder)): path.read_bytes() for path in all_files}


def wait_for_half(process: subprocess.Popen[bytes], folder: Path) -> None:
    while len(list(folder.glob("*.json"))) < SCENES // 2:
        assert process.poll() is None, process.communicate()[0].decode()
        time.sleep(0.1)


def test_a_killed_node_leaves_no_trace_in_the_files(workplace, cluster):
    draw_scenes(workplace, SCENES)
    (workplace / "scenes" / "images" / "broken.jpg").write_bytes(b"no image")
    with ThreadPoolExecutor(1) as other:
        reference = other.submit(in_one_process, workplace)
        doomed = cluster.add_node(num_cpus=1, object_store_memory=STORE)
        process = on_the_cluster(workplace, cluster.address, *MASKS_OPTIONS, *PAIRS_OPTIONS)
        wait_for_half(process, workplace / "cluster" / "out" / "masks" / "_meta")
        cluster.remove_node(doomed, allow_graceful=False)
        doomed = cluster.add_node(num_cpus=1, object_store_memory=STORE)
        wait_for_half(process, workplace / "cluster" / "out" / "pairs" / "distinctive_captions_cc3m.parts")
        cluster.remove_node(doomed, allow_graceful=False)
        said = process.communicate()[0].decode()
        assert process.returncode == EXIT_FAILURES, said
        reference.result()
    assert said.count(f"{SCENES + 1} images: ") == 2
    assert files(workplace / "cluster") == files(workplace / "one")


def test_a_stage_that_cannot_work_ends_the_script(workplace, cluster):
    draw_scenes(workplace, 1)
    process = on_the_cluster(workplace, cluster.address, "--sam.weights", "none.pth")
    said = process.communicate()[0].decode()
    assert process.returncode == 2, said
    assert "none.pth" in said
    assert not (workplace / "cluster" / "out" / "pairs").exists()
