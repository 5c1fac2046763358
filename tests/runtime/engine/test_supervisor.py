"""One worker process and all that can happen to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Thread

import psutil
import pytest
from tiny_loop import record, settings, tiny

from pseudo_ris.runtime.engine.job import Died, HandedBack, Job, Stopped, Task
from pseudo_ris.runtime.engine.supervisor import STARTS, Supervisor
from pseudo_ris.runtime.image_loop import Failure, Outcome

ROOT = Path(__file__).parents[3]


@contextmanager
def supervising(folder: Path, time_limit: float = 0, **changes):
    supervisor = Supervisor(Job.of(tiny, settings(folder, **changes)), "worker 0", time_limit)
    try:
        yield supervisor
    finally:
        supervisor.terminate()
        supervisor.close()
        assert not supervisor.is_alive


def task(name: str, known: Failure | None = None) -> Task:
    return Task(record(name), known)


def test_every_way_an_image_can_end(tmp_path):
    (tmp_path / "there.txt").touch()
    known = Failure("again", "again", "was bad", "k")
    with supervising(tmp_path) as worker:
        outcomes = [worker.work_on(each) for each in map(task, ("a", "there", "bad", "broken"))]
        outcomes.append(worker.work_on(task("again", known)))
    assert [(o.image, o.status, o.key) for o in outcomes] == [
        ("a", "made", "k"),
        ("there", "reused", "k"),
        ("bad", "failed", "k"),
        ("broken", "failed", "k"),
        ("again", "known", "k"),
    ]
    assert [o.reason for o in outcomes[2:4]] == ["bad: is bad", "ZeroDivisionError: oops"]
    assert "in misbehave" in outcomes[3].traceback
    assert not outcomes[2].traceback
    assert {o.worker for o in outcomes} == {"worker 0"}
    assert (tmp_path / "a.txt").read_text() == "a"


def test_only_failed_images_are_redone_on_request(tmp_path):
    known = Failure("b", "b", "was bad", "k")
    with supervising(tmp_path, retry_failed=True) as worker:
        assert worker.work_on(task("a")).status == "left_out"
        assert worker.work_on(task("b", known)).status == "made"


@pytest.mark.parametrize(
    ("name", "reason", "blamed"),
    [
        ("kill", "SIGKILL (it said nothing)", True),
        ("exit", "exit code 7 (last words)", True),
        ("crash", "SIGSEGV", True),
        ("term", "exit code 143", False),
    ],
)
def test_a_death_costs_the_image_it_had_and_nothing_else(tmp_path, name, reason, blamed):
    with supervising(tmp_path) as worker:
        assert worker.work_on(task("a")).status == "made"
        death = worker.work_on(task(name))
        assert isinstance(death, Died)
        assert (death.image, death.blamed, reason in death.reason) == (name, blamed, True), death
        assert worker.work_on(task("b")).status == "made"


@pytest.mark.slow
def test_a_stuck_image_is_given_up(tmp_path):
    with supervising(tmp_path, time_limit=2) as worker:
        outcome = worker.work_on(task("slow"))
        assert (outcome.status, outcome.reason, outcome.key) == ("failed", "slow: took longer than --image-timeout 2 s", "")
        pid = int((tmp_path / ".slow").read_text())
        assert not psutil.pid_exists(pid)
        assert worker.work_on(task("a")).status == "made"


def test_errors_of_the_whole_run_stop_it(tmp_path):
    with supervising(tmp_path) as worker:
        assert worker.work_on(task("stop")) == Stopped("stop", "the disk is full")
    with supervising(tmp_path, stop="no weights") as worker:
        assert worker.work_on(task("a")) == Stopped("a", "no weights")


@pytest.mark.slow
def test_a_worker_that_cannot_start_stops_the_run_with_its_last_words(tmp_path):
    (tmp_path / "recipe.py").write_text("import no_such_module\n")
    supervisor = Supervisor(Job(str(tmp_path / "recipe.py"), "tiny", settings(tmp_path)), "worker 0", 0)
    stopped = supervisor.work_on(task("a"))
    assert isinstance(stopped, Stopped)
    assert "3 times before its first image" in stopped.message
    assert "No module named 'no_such_module'" in stopped.message


@pytest.mark.slow
def test_a_worker_whose_gpu_keeps_failing_stays_out_of_service(tmp_path):
    job = replace(Job.of(tiny, settings(tmp_path)), device="cuda")
    supervisor = Supervisor(job, "worker 0", 0)
    deaths = [supervisor.work_on(task(f"gpu-{n}")) for n in range(STARTS)]
    assert [(death.image, bool(death.gpu), death.blamed) for death in deaths] == [
        (f"gpu-{n}", True, False) for n in range(STARTS)
    ]
    assert [death.retired for death in deaths] == [False, False, True]
    assert deaths[0].reason == "GPU cuda:0 failed"
    assert supervisor.work_on(task("a")) == HandedBack("a")
    assert not supervisor.is_alive


@pytest.mark.slow
def test_a_gpu_that_worked_before_makes_the_image_a_suspect(tmp_path):
    with supervising(tmp_path) as worker:
        assert [worker.work_on(task(name)).status for name in ("a", "b")] == ["made", "made"]
        assert worker.work_on(task("gpu-1")).blamed
        assert not worker.is_retired
        assert worker.work_on(task("c")).status == "made", "a new process has the GPU again"


@pytest.mark.slow
@pytest.mark.parametrize("device", ["", "cuda"])
def test_a_worker_that_is_never_ready_is_given_up(tmp_path, device):
    (tmp_path / "recipe.py").write_text("import time; time.sleep(600)")
    job = Job(str(tmp_path / "recipe.py"), "loop", settings(tmp_path), device=device)
    supervisor = Supervisor(job, "worker 0", 0, start_limit=1.0)
    report = supervisor.work_on(task("a"))
    said = report.reason if isinstance(report, Died) else report.message
    assert "--start-timeout 1 s " in said
    assert isinstance(report, Died if device else Stopped)
    assert supervisor.is_retired == bool(device)
    assert not supervisor.is_alive


def test_told_to_end_in_the_middle_of_an_image_it_ends_soon(tmp_path):
    with supervising(tmp_path) as worker:
        reports = []
        thread = Thread(target=lambda: reports.append(worker.work_on(task("slow"))))
        thread.start()
        pid = begun(tmp_path / ".slow")
        started = time.monotonic()
        worker.terminate()
        thread.join()
        assert time.monotonic() - started < 30, "the image takes 60 s"
        assert not psutil.pid_exists(pid)
        assert [(type(each), each.blamed) for each in reports] == [(Died, False)]
        assert worker.work_on(task("a")) == Stopped("a", "its worker was told to end"), "no other is started"
    assert not list(tmp_path.glob("*.txt"))


DRIVER = """
import sys
from pathlib import Path
sys.path.insert(0, "tests/helpers")
from tiny_loop import record, settings, tiny
from pseudo_ris.runtime.engine.job import Job, Task
from pseudo_ris.runtime.engine.supervisor import Supervisor
Supervisor(Job.of(tiny, settings(Path(sys.argv[1]))), "worker 0", 0).work_on(Task(record("slow")))
"""


def test_a_worker_does_not_outlive_its_killed_parent(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path)], cwd=ROOT, env=environment)
    pid = begun(tmp_path / ".slow")
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    deadline = time.monotonic() + 30
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_threads_and_environment_are_the_workers_own(tmp_path):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "import os\n"
        "def loop(config, images):\n"
        "    for image in images.images():\n"
        "        with images.guard(image):\n"
        "            raise ValueError(os.environ['OMP_NUM_THREADS'] + os.environ['CUDA_VISIBLE_DEVICES'])\n"
    )
    supervisor = Supervisor(Job(str(recipe), "loop", settings(tmp_path), threads=3), "w", 0, {"CUDA_VISIBLE_DEVICES": "5,6"})
    outcome = supervisor.work_on(task("a"))
    assert isinstance(outcome, Outcome)
    assert outcome.reason == "ValueError: 35,6"
    supervisor.kill()


def begun(note: Path) -> int:
    """Waits until a slow image has begun; the process's number."""
    while not note.exists() or not note.read_text():
        time.sleep(0.01)
    return int(note.read_text())
