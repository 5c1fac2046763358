"""Cores and memory that this process may use, within the limits of its control groups (containers, Slurm)."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import psutil

ROOT = Path("/")


def core_count(root: Path = ROOT) -> int:
    """Cores that this process may use: those of its affinity, bounded by the CPU quota of its control groups; at least 1.

    root: where /proc and /sys are.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *(math.ceil(quota) for quota in _cpu_quotas(root))]))


def total_memory(root: Path = ROOT) -> int:
    """Bytes of host memory that this process and its like may use: the machine's, or the smallest limit of a control group."""
    return min([psutil.virtual_memory().total, *(limit for limit, _ in _memory_limits(root))])


def free_memory(root: Path = ROOT) -> int:
    """Bytes of host memory that may still be taken: what the machine has available, and what each limit leaves."""
    return max(0, min([psutil.virtual_memory().available, *(limit - used for limit, used in _memory_limits(root))]))


def _cpu_quotas(root: Path) -> Iterator[float]:
    """Cores' worth of time that each control group may use, where it has a limit."""
    for group in _groups(root, "cpu"):
        quota, period = (_words(group / "cpu.max") + [""] * 2)[:2]  # version 2
        if not quota:
            quota, period = ("".join(_words(group / f"cpu.cfs_{name}_us")) for name in ("quota", "period"))
        if quota.isdecimal() and period.isdecimal() and int(period):
            yield int(quota) / int(period)


def _memory_limits(root: Path) -> Iterator[tuple[int, int]]:
    """Limit and use of each control group that has a limit, in bytes; file cache that can be dropped is no use."""
    for group in _groups(root, "memory"):
        for limit_file, use_file, cache in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit, used = "".join(_words(group / limit_file)), "".join(_words(group / use_file))
            if limit.isdecimal() and used.isdecimal():
                statistics = _words(group / "memory.stat")
                dropped = int(statistics[statistics.index(cache) + 1]) if cache in statistics else 0
                yield int(limit), max(0, int(used) - dropped)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of this process's control group for a controller and of all groups above it, of either version of cgroups."""
    mounted = root / "sys" / "fs" / "cgroup"
    entries = [line.split(":", 2) for line in _words(root / "proc" / "self" / "cgroup") if line.count(":") >= 2]
    for _, controllers, path in entries:
        if controllers and controller not in controllers.split(","):
            continue
        top = mounted / controller if controllers else mounted
        group = top / path.lstrip("/")
        # In a container the path may be the host's, which is not mounted there; the topmost folder is the container's then.
        yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(top) and folder.is_dir())


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except (OSError, UnicodeDecodeError):
        return []
