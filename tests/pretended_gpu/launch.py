"""Starts processes with pretended GPUs from tests and benchmarks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch

from tests.pretended_gpu.runtime import compiler, cuda_headers, pretending_environment
from tests.pretended_gpu.settings import ROOT, as_environment


def what_is_missing() -> str:
    """What a pretended GPU needs and this machine lacks; empty where nothing is missing."""
    if sys.platform != "linux":
        return "a pretended GPU needs Linux"
    if not (torch.version.cuda or "").startswith("13."):
        return f"a pretended GPU needs torch built for CUDA 13, this one is built for {torch.version.cuda or 'no CUDA'}"
    if compiler() is None:
        return "a pretended GPU needs a C compiler named cc or gcc"
    if cuda_headers() is None:
        return "a pretended GPU needs the CUDA headers of the package triton"
    return ""


needs_pretended_gpu = pytest.mark.skipif(bool(what_is_missing()), reason=what_is_missing())


def run_pretended(
    arguments: Sequence[str],
    *,
    settings: Mapping[str, object] = {},
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 1200,
) -> subprocess.CompletedProcess[str]:
    """Runs `python -m tests.pretended_gpu ARGUMENTS...` and returns its exit code and output, whether it failed or not.

    Args:
        arguments: SCRIPT ARGUMENTS..., or -m MODULE ARGUMENTS...
        settings: Of Settings, in capitals, e.g. {"GPUS": 2, "GPU_MIB": 300, "BREAK_AT": 500, "SM": 90}.
        env: Environment in place of this process's.
        cwd: Working folder in place of the repository's root.
        timeout: Seconds after which the process is killed.

    Raises:
        subprocess.TimeoutExpired: The process did not end in time.
        ValueError: A setting that does not exist.
    """
    environment = pretending_environment({**(os.environ if env is None else env), **as_environment(settings)})
    command = [sys.executable, "-m", "tests.pretended_gpu", *map(str, arguments)]
    return subprocess.run(command, env=environment, cwd=cwd or ROOT, timeout=timeout, text=True, capture_output=True)
