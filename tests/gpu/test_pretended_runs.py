"""The tests that need a GPU, on a pretended one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from synchronisations import figures_of

from tests.pretended_gpu.launch import needs_pretended_gpu, run_pretended
from tests.pretended_gpu.report import read_reports

TESTS = Path(__file__).parents[1]


@pytest.mark.slow
@needs_pretended_gpu
def test_all_tests_that_need_a_gpu_pass_on_a_pretended_one(tmp_path):
    files = [str(path) for path in sorted(TESTS.rglob("test_*.py")) if re.search(r"mark\.gpu\b", path.read_text())]
    assert str(TESTS / "gpu" / "test_gpu.py") in files
    arguments = ["-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", "-p", "no:xdist", "-rs", *files]
    done = run_pretended(arguments, settings={"REPORT": tmp_path / "report"}, timeout=900)
    assert done.returncode == 0, done.stdout
    assert re.search(r"\d+ passed", done.stdout.splitlines()[-1])
    skipped = [line for line in done.stdout.splitlines() if line.startswith("SKIPPED")]
    assert all("a pretended GPU runs no kernels" in line for line in skipped), skipped
    reports = read_reports(tmp_path / "report")
    assert sum(report["operators"] for report in reports) > 1000
    for report in reports:
        assert report["mismatches"] == []
        assert report["refused_launches"] == 0


def test_waits_for_each_image_leave_out_the_start():
    few, many = (
        {"a.py:1 item (read)": 5, "b.py:2 copy_ (to device)": 100},
        {"a.py:1 item (read)": 15, "b.py:2 copy_ (to device)": 102},
    )
    counts = {"stage1": [few, many], "stage2": [few, few], "decoding_waits": 9, "decoding_steps": 2}
    assert figures_of(counts) == {"stage1_per_image": 6.0, "stage2_per_image": 0.0, "per_decoding_step": 4.5}


@pytest.mark.slow
def test_the_benchmark_starts_from_any_folder(tmp_path):
    command = [sys.executable, str(Path(__file__).parents[2] / "benchmarks" / "synchronisations.py"), "--help"]
    surroundings = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=surroundings, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
