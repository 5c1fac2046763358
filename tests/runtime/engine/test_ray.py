"""`--engine ray` on clusters of this machine, whatever becomes of the workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
from ray.cluster_utils import Cluster
from ray_loop import lossy
from tiny_loop import record, settings, tiny

from pseudo_ris.config import EngineConfig
from pseudo_ris.errors import UserError
from pseudo_ris.runtime.dispatch import outcomes_of
from pseudo_ris.runtime.engine import on_ray
from pseudo_ris.runtime.engine.job import Job, Task
from pseudo_ris.runtime.engine.on_ray import RayEngine
from pseudo_ris.runtime.engine.ray_share import Share, share_of
from pseudo_ris.runtime.image_loop import Outcome

ROOT = Path(__file__).parents[3]
IMPORT_PATH = os.pathsep.join(map(str, (ROOT, ROOT / "tests" / "helpers", Path(__file__).parent)))
"""Where the processes that tests start find the package, the helpers and this module."""
STORE = 100 << 20


def engine_settings(folder: Path, **changes) -> EngineConfig:
    defaults = {"device": "cpu", "workers": 0, "gpus_per_worker": 1.0, "address": "", "image_timeout": 0.0}
    return settings(folder, **{**defaults, **changes})


def ended(job_loop, config, names: Sequence[str]) -> dict[str, Outcome]:
    """How each image ended; once each."""
    with RayEngine(Job.of(job_loop, config), config, no_need) as engine:
        results = [(task.record.name, outcome) for task, outcome in outcomes_of(engine, tasks(names))]
    assert sorted(name for name, _ in results) == sorted(names)
    return dict(results)


def no_need() -> int:
    return 1


def tasks(names: Sequence[str]) -> list[Task]:
    return [Task(record(name)) for name in names]


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one core each."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": STORE})
    cluster.add_node(num_cpus=1, object_store_memory=STORE)
    yield cluster
    cluster.shutdown()


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "no.such.host.invalid:6379"])
def test_an_address_where_nobody_answers_is_refused_at_once(tmp_path, address):
    with pytest.raises(UserError, match=f"--address {address}: nobody answers there"):
        ended(tiny, engine_settings(tmp_path, address=address), ["image"])


@pytest.mark.slow
def test_each_image_ends_once_and_only_the_guilty_fail(cluster, tmp_path):
    names = [*(f"image-{n}" for n in range(20)), "bad", "broken", "kill", "once-1", "once-2", "exit-1", "slow-1"]
    outcomes = ended(tiny, engine_settings(tmp_path, address=cluster.address, image_timeout=6.0), names)
    failed = {name: outcome for name, outcome in outcomes.items() if outcome.status == "failed"}
    assert sorted(failed) == ["bad", "broken", "exit-1", "kill", "slow-1"]
    assert failed["kill"].reason == "kill: twice its worker ended with SIGKILL (it said nothing)"
    assert "ZeroDivisionError" in failed["broken"].traceback
    assert failed["slow-1"].reason == "slow-1: took longer than --image-timeout 6 s"
    assert {path.name: path.read_text() for path in tmp_path.glob("*.txt")} == {
        f"{name}.txt": name for name in set(names) - set(failed)
    }
    assert len({outcome.worker for outcome in outcomes.values()}) >= 2, "both nodes work"


@pytest.mark.slow
def test_images_of_a_lost_worker_are_tried_again(cluster, tmp_path):
    names = ["orphaned-1", "orphan", *(f"image-{n}" for n in range(8)), "orphaned-2"]
    outcomes = ended(lossy, engine_settings(tmp_path, address=cluster.address), names)
    failed = [outcome for outcome in outcomes.values() if outcome.status == "failed"]
    assert [(outcome.image, outcome.key) for outcome in failed] == [("orphan", "")]
    assert failed[0].reason == "orphan: twice its Ray worker was lost while it had no other image"
    assert sorted(path.stem for path in tmp_path.glob("*.txt")) == sorted(set(names) - {"orphan"})


@pytest.mark.slow
def test_an_error_of_the_whole_run_ends_it(cluster, tmp_path):
    config = engine_settings(tmp_path, address=cluster.address)
    with pytest.raises(UserError, match="the disk is full"):
        ended(tiny, config, ["image", "slow", "halt"])
    assert not still_there([int(path.read_text()) for path in tmp_path.glob(".slow*")])
    with pytest.raises(UserError, match=r"of the Ray cluster has no /nowhere/recipe\.py: all its machines need this checkout"):
        list(run_through(Job("/nowhere/recipe.py", "loop", config), config, ["image"]))


@pytest.mark.slow
def test_workers_that_find_no_room_end_the_run(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(on_ray, "START_SECONDS", 4.0)
    monkeypatch.setattr(on_ray, "share_of", lambda nodes, config, needed: Share(2, 64.0, 0.0, 1))
    config = engine_settings(tmp_path, address=cluster.address)
    with pytest.raises(UserError, match="Ray has started none of 2 workers in 4 s, each with 64 CPUs"):
        ended(tiny, config, ["image"])


@pytest.mark.slow
def test_workers_run_where_the_driver_does(cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    ended(lossy, engine_settings(Path(), address=cluster.address), ["image"])
    assert (tmp_path / "image.txt").read_text().split()[:2] == ["3", str(tmp_path)]


@pytest.mark.slow
def test_workers_share_the_gpus(tmp_path):
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": 2, "object_store_memory": STORE})
    try:
        config = engine_settings(tmp_path, device="auto", gpus_per_worker=0.5, address=cluster.address)
        ended(lossy, config, [f"nap-{n}" for n in range(60)])
        (tmp_path / "picky").mkdir()
        config.folder = str(tmp_path / "picky")
        picky = ended(tiny, config, [f"picky-{n}" for n in range(8)])
    finally:
        cluster.shutdown()
    workers = {text.split()[-1]: text.split()[0] for text in (path.read_text() for path in tmp_path.glob("*.txt"))}
    assert Counter(workers.values()) == {"0": 2, "1": 2}
    assert {outcome.status for outcome in picky.values()} == {"made"}, "though one of the GPUs is broken"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_the_driver(tmp_path, number):
    code = (
        "from pathlib import Path; from test_ray import *; from pseudo_ris.runtime.command import run_recipe\n"
        "run_recipe(lambda argv: ended(lossy, engine_settings(Path(argv[0]), workers=2), ['slow-1', 'slow-2']))"
    )
    driver = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=os.environ | {"PYTHONPATH": IMPORT_PATH})
    wait_until(lambda: len([path for path in tmp_path.glob(".slow*") if path.read_text()]) == 2, 300)
    processes = [psutil.Process(driver.pid), *psutil.Process(driver.pid).children(recursive=True)]
    pids = [int(path.read_text()) for path in tmp_path.glob(".slow*")]
    driver.send_signal(number)
    assert not still_there(pids), "the processes with the models"
    driver.communicate(timeout=60)
    if number != signal.SIGKILL:  # after which Ray's own processes take longer to see that nobody needs them
        assert not still_there([process.pid for process in processes])


@pytest.mark.slow
def test_without_the_option_ray_is_not_imported(tmp_path):
    code = (
        "import sys; from pathlib import Path; from tiny_loop import record, settings, tiny\n"
        "import generate_masks.cutler_sam_masks, generate_pseudo_supervision.distinctive_caption_generation\n"
        "from pseudo_ris.runtime.dispatch import run_loop; from pseudo_ris.runtime.runs import Run\n"
        "folder = Path(sys.argv[1]); config = settings(folder, engine='local', device='cpu', workers=1, image_timeout=0)\n"
        "run = Run('test', folder, [record('image')], False); run_loop(tiny, config, run)\n"
        "assert run.counts['made'] == 1; assert 'ray' not in sys.modules"
    )
    run_code(code, tmp_path)


def test_without_ray_the_option_says_what_to_install():
    code = (
        "import sys; sys.modules['ray'] = None\n"
        "from pseudo_ris.errors import UserError\n"
        "try:\n    import pseudo_ris.runtime.engine.on_ray\n"
        "except UserError as error:\n    assert 'pip install \"pseudo-ris[scale]\"' in str(error), error\n"
        "else:\n    raise AssertionError\n"
    )
    run_code(code)


@pytest.mark.parametrize(
    ("cores", "workers", "expected"),
    [
        ([4, 4], 0, Share(8, 1, 0, 1, 1 / 4)),
        ([4, 4], 2, Share(2, 4, 0, 4, 1)),
        ([4, 4], 3, Share(3, 2, 0, 2, 1 / 2)),
        ([1, 1], 1, Share(1, 1, 0, 1, 1)),
        ([8, 2], 3, Share(3, 2, 0, 2, 1 / 3)),
        ([2], 16, Share(16, 0.125, 0, 1, 1 / 16)),
        ([1], 3, Share(3, 0.3333, 0, 1, 1 / 3)),
        ([0, 3], 2, Share(2, 1, 0, 1, 1 / 2)),
    ],
)
def test_shares_of_cores(cores, workers, expected):
    share = share_of([{"CPU": float(count)} for count in cores], EngineConfig(engine="ray", workers=workers), no_need)
    assert share == expected
    assert sum(int(count / share.cpus) for count in cores) >= share.count, "they fit"


def test_workers_on_cores_are_as_many_as_memory_holds():
    nodes = [{"CPU": 16.0, "memory": 32e9}, {"CPU": 4.0, "memory": 64e9}]
    assert share_of(nodes, EngineConfig(), lambda: 6 * 10**9) == Share(9, 2, 0, 2, 1 / 8)
    assert share_of(nodes, EngineConfig(engine="ray", workers=20), lambda: 6 * 10**9).count == 20
    assert share_of(nodes, EngineConfig(), lambda: 10**12).count == 1


@pytest.mark.parametrize(
    ("wanted", "workers", "expected"),
    [
        (1.0, 0, Share(6, 0, 1, 2, 1)),
        (0.5, 0, Share(12, 0, 0.5, 1, 1 / 2)),
        (0.4, 0, Share(12, 0, 0.4, 1, 1 / 2)),
        (1.0, 2, Share(2, 0, 1, 2, 1)),
    ],
)
def test_shares_of_gpus(wanted, workers, expected):
    nodes = [{"CPU": 8.0, "GPU": 4.0}, {"CPU": 8.0, "GPU": 2.0}, {"CPU": 64.0}]
    assert share_of(nodes, EngineConfig(engine="ray", gpus_per_worker=wanted, workers=workers), no_need) == expected


def test_without_gpus_or_on_the_cpu_cores_are_shared():
    assert share_of([{"CPU": 2.0, "GPU": 1.0}], EngineConfig(device="cpu"), no_need) == Share(2, 1, 0, 1, 1 / 2)


@pytest.mark.parametrize(
    ("node", "config", "message"),
    [
        ({"GPU": 0.5}, EngineConfig(), "no machine of the Ray cluster has a whole GPU"),
        ({"CPU": 4.0}, EngineConfig(device="cuda"), "--device cuda: no machine of the Ray cluster has a GPU"),
        ({}, EngineConfig(), "has no CPUs"),
    ],
)
def test_clusters_that_cannot_do_the_work_are_refused(node, config, message):
    with pytest.raises(UserError, match=message):
        share_of([node], config, no_need)


def run_through(job: Job, config, names: Sequence[str]):
    with RayEngine(job, config, no_need) as engine:
        yield from outcomes_of(engine, tasks(names))


def run_code(code: str, *arguments: Path) -> None:
    subprocess.run([sys.executable, "-c", code, *map(str, arguments)], env=os.environ | {"PYTHONPATH": IMPORT_PATH}, check=True)


def wait_until(condition, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "took too long"
        time.sleep(0.1)


def still_there(pids: Sequence[int]) -> list[int]:
    """Those of the processes that have not ended 30 seconds later; their images take 60."""
    assert pids
    _, there = psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=30)
    return [process.pid for process in there]
