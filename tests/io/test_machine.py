"""What a process may use of the machine, with the files of control groups as systemd, Docker and Slurm make them."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from pseudo_ris.io.machine import core_count, free_memory, total_memory

GIB = 2**30
AVAILABLE, TOTAL, CORES = 60 * GIB, 64 * GIB, 16


@pytest.fixture(autouse=True)
def large_machine(monkeypatch):
    memory = psutil.virtual_memory()._replace(available=AVAILABLE, total=TOTAL)
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(CORES)), raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 64)


def machine(root: Path, own_groups: str, **files: str) -> Path:
    """A file system with these control groups; files: path below /sys/fs/cgroup, "__" for "/", and "_" in names kept."""
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "self" / "cgroup").write_text(own_groups)
    for name, content in files.items():
        path = root / "sys" / "fs" / "cgroup" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def figures(root: Path) -> tuple[int, float, float]:
    return core_count(root), free_memory(root) / GIB, total_memory(root) / GIB


def test_without_limits_it_is_the_affinity_and_the_machine(tmp_path):
    assert figures(tmp_path) == (16, 60, 64)
    unlimited = {"a__cpu.max": "max 100000\n", "a__memory.max": "max\n", "a__memory.current": "5\n"}
    assert figures(machine(tmp_path, "0::/a\n", **unlimited)) == (16, 60, 64)


def test_limits_of_version_2_hold_also_for_the_groups_below(tmp_path):
    root = machine(
        tmp_path,
        "0::/job/step\n",
        **{
            "job__cpu.max": "250000 100000\n",
            "job__step__cpu.max": "max 100000\n",
            "job__memory.max": f"{8 * GIB}\n",
            "job__memory.current": f"{5 * GIB}\n",
            "job__memory.stat": f"anon 7\ninactive_file {2 * GIB}\n",
            "job__step__memory.max": f"{20 * GIB}\n",
            "job__step__memory.current": f"{GIB}\n",
        },
    )
    assert figures(root) == (3, 5, 8)


def test_limits_of_version_1(tmp_path):
    root = machine(
        tmp_path,
        "5:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n",
        **{  # in the container its group is the topmost folder
            "cpu__cpu.cfs_quota_us": "400000\n",
            "cpu__cpu.cfs_period_us": "100000\n",
            "memory__memory.limit_in_bytes": f"{10 * GIB}\n",
            "memory__memory.usage_in_bytes": f"{4 * GIB}\n",
            "memory__memory.stat": f"cache 1\ntotal_inactive_file {GIB}\n",
        },
    )
    assert figures(root) == (4, 7, 10)
    (root / "sys/fs/cgroup/cpu/cpu.cfs_quota_us").write_text("-1\n")
    (root / "sys/fs/cgroup/memory/memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert figures(root) == (16, 60, 64)


def test_a_quota_below_one_core_and_memory_that_is_used_up(tmp_path):
    root = machine(
        tmp_path, "0::/\n", **{"cpu.max": "5000 100000\n", "memory.max": f"{GIB}\n", "memory.current": f"{2 * GIB}\n"}
    )
    assert figures(root) == (1, 0, 1)


def test_without_affinity_all_cores_count(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    assert core_count(tmp_path) == 64
