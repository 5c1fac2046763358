"""benchmarks/scaling.py: what its figures are made of."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cluster_model import Cluster, simulate, steady_rate
from projection import check_engine, engine_parameters
from stage_runs import first_to_last
from waiting_loop import Beginning
from waiting_runs import WaitingRun, figures_of, run_waiting

ROOT = Path(__file__).parents[2]
COUNT = """
import json, os, shutil, sys
from collections import Counter
from pathlib import Path
from threading import Thread
from timed_stage import FileOperations
inside, outside = Path(sys.argv[1]), Path(sys.argv[2])
first, second = Counter(), Counter()
operations = FileOperations([str(inside)], first)
(inside / "a").write_text("1")
(inside / "a").rename(inside / "b")
operations.counts = second
os.stat(inside / "b")
(inside / "b").read_text()
(outside / "c").write_text("2")
other = Thread(target=(inside / "b").read_text, name="status")
other.start()
other.join()
(inside / "b").unlink()
print(json.dumps([first, second]))
"""


@pytest.mark.slow
def test_the_engine_is_measured_while_all_workers_are_at_work():
    run = run_waiting("local", 2, wait=0.01, images=300)
    assert run.at_work == 2
    assert 0 < run.images <= 300
    assert run.rate < 2 / 0.01
    assert run.overhead > 0
    assert run.driver_cpu > 0
    assert run.worker_cpu > 0


def test_figures_begin_with_the_last_worker_s_first_image():
    noted = [
        ("a", Beginning(0.0, 0.0), 1.0),
        ("a", Beginning(1.0, 0.1), 1.1),
        ("b", Beginning(4.0, 0.0), 1.4),
        ("a", Beginning(5.0, 0.2), 1.5),
        ("b", Beginning(6.0, 0.5), 1.6),
        ("a", Beginning(7.0, 0.4), 1.8),
        ("b", Beginning(8.0, 1.0), 2.0),
    ]
    figures = figures_of(noted)
    assert figures == pytest.approx({"images": 5, "at_work": 2, "rate": 1.0, "driver_cpu": 0.15, "worker_cpu": 0.35})


def test_a_worker_that_starts_too_late_is_said_to_be():
    noted = [("a", Beginning(1.0, 0.0), 1.0), ("a", Beginning(2.0, 0.0), 1.0), ("b", Beginning(3.0, 0.0), 1.0)]
    with pytest.raises(SystemExit, match="too few images"):
        figures_of(noted)


def test_first_to_last_counts_no_image_that_was_begun_before_and_all_idling_at_the_end():
    assert first_to_last([[10.0, 12.0, 14.0]]) == 2 / 4
    assert first_to_last([[10.0, 12.0, 14.0], [11.0, 13.0, 15.0, 17.0, 20.0]]) == 6 / 10


def test_the_model_is_fitted_to_an_engine():
    truth = Cluster(driver_seconds=0.002, worker_seconds=0.005)
    runs = []
    for workers in (1, 4, 16):
        rate = steady_rate(simulate(truth, workers, [0.1] * 100 * workers).ends)
        idle_cpu = 0.05  # of a second, whatever the rate
        runs.append(WaitingRun("local", workers, 0.1, 1, 10.0, 100 * workers, workers, rate, 0.002 + idle_cpu / rate, 0.0))
    fitted = engine_parameters(runs)
    assert (fitted.driver_seconds, fitted.worker_seconds) == pytest.approx((0.002, 0.005))
    assert all(abs(check.error) < 0.01 for check in check_engine(runs))


def test_file_operations_are_counted_by_phase_folder_and_thread(tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "benchmarks")))}
    shown = subprocess.run(
        [sys.executable, "-c", COUNT, inside, outside], env=environment, check=True, capture_output=True, text=True
    ).stdout
    assert json.loads(shown) == [
        {"open to write": 1, "os.rename": 1},
        {"stat": 1, "open to read": 1, "os.remove": 1},
    ]
