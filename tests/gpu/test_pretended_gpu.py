"""The pretended GPU finds each kind of mistake that a real one would, and computes what the CPU does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from tests.gpu.pretended_cases import LINEAR
from tests.pretended_gpu.faults import Fault
from tests.pretended_gpu.launch import needs_pretended_gpu, run_pretended, what_is_missing
from tests.pretended_gpu.report import read_reports
from tests.pretended_gpu.runtime import compiled_library
from tests.pretended_gpu.settings import Settings, as_environment

CASES = Path(__file__).with_name("pretended_cases.py")
MIXED = "on the same device|should be the same|to have the same device type"

# What the error says where it is not a mix of devices.
OTHER_ERRORS = {
    "CPU generator": ("RuntimeError", "Expected a 'cuda' device type for generator but found 'cpu'"),
    "CPU generator of a permutation": ("RuntimeError", "Expected a 'cuda' device type for generator but found 'cpu'"),
    "generator of its own": ("NotImplementedError", "default generator only"),
    "NumPy array of device memory": ("TypeError", "can't convert cuda:0 device type tensor to numpy"),
    "pinning device memory": ("RuntimeError", "only dense CPU tensors can be pinned"),
    "more memory than there is": ("OutOfMemoryError", "total capacity of 64.00 MiB"),
    "a GPU that is not there": ("AcceleratorError", "invalid device ordinal"),
}
VALUES = {
    "sum with a number on the CPU": 4 * 8 * (1 + 2),
    "where with a number on the CPU": 4 * 8 * 5,
    "filled with a number on the CPU": 4 * 8 * 3,
    "CPU index": 2 * 8,
    "put by a CPU index": 2 * 8 * 2 + 2 * 8,
    "between GPUs": 4 * 8,
    "pinned": 1,
    "result of another size": 4 * 8 * 2,
    "view": 12 * 2 + (20 + 12 * 2),
    "memory that was given back": 4,
    "index_select": 8 + (4 + 4 * 2),
}
KINDS = {
    "to host": {"tolist", "cpu"},
    "to device": {
        "from pageable memory",
        "from pageable memory, non-blocking",
        "from pinned memory, blocking",
        "list to the device",
        "CPU index",
    },
    "bool index": {"bool index", "bool index, assigned rows"},
    "runtime": {"synchronize", "event"},
    "read": {"item", "truth", "nonzero", "unique", "repeats without their sum", "NMS"},
}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory) -> dict:
    """What came of each planted case, and the report of the process."""
    folder = tmp_path_factory.mktemp("report")
    done = run_pretended([str(CASES)], settings={"GPUS": 2, "GPU_MIB": 64, "REPORT": folder})
    assert done.returncode == 0, done.stderr
    (report,) = read_reports(folder)
    return {**json.loads(done.stdout), "report": report}


@pytest.mark.slow
@needs_pretended_gpu
def test_every_planted_mistake_is_refused(outcome):
    errors = outcome["errors"]
    assert OTHER_ERRORS.keys() < errors.keys()
    for name, error in errors.items():
        kind, text = OTHER_ERRORS.get(name, ("RuntimeError", MIXED))
        assert error, f"{name}: not refused"
        assert error[0] == kind, name
        with pytest.raises(RuntimeError, match=text):
            raise RuntimeError(error[1])
    refused_here = [error for error in errors.values() if "called at" in error[1]]
    assert len(outcome["report"]["mismatches"]) == len(refused_here) > 20
    assert all(line.startswith("tests/gpu/pretended_cases.py:") for line in outcome["report"]["mismatches"])


@pytest.mark.slow
@needs_pretended_gpu
def test_what_is_allowed_gives_the_cpus_numbers(outcome):
    torch.manual_seed(7)
    attention = scaled_dot_product_attention(LINEAR, LINEAR, LINEAR, is_causal=True).sum().item()
    expected = {**VALUES, "causal attention": pytest.approx(attention), "draw": pytest.approx(torch.rand(3).sum().item())}
    assert outcome["values"] == expected
    assert outcome["report"]["refused_launches"] == 0
    assert outcome["report"]["refused_allocations"] > 0
    assert outcome["report"]["peak_bytes"] <= 64 * 2**20


@pytest.mark.slow
@needs_pretended_gpu
def test_each_wait_is_counted_with_its_line_and_nothing_else_is(outcome):
    waits = outcome["waits"]
    free = {name for name in waits if name.startswith("free: ")}
    assert len(free) == 8
    assert all(waits[name] == [] for name in free)
    for name in waits.keys() - free:
        ((kind, line, number),) = waits[name]
        assert name in KINDS[kind]
        assert line.startswith(f'"{name}": lambda')
        assert number == 1


@pytest.mark.slow
@needs_pretended_gpu
def test_a_broken_device_fails_whatever_follows_and_other_processes_pretend_too(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(f"import subprocess, sys\nsubprocess.run([sys.executable, {str(CASES)!r}, 'broken'], check=True)\n")
    done = run_pretended([str(script)], settings={"BREAK_AT": 20}, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.pop("operators before") == ["18"]  # after the copy to the device
    assert found.pop("on the CPU") == []
    for what, error in found.items():
        assert error[:1] == ["AcceleratorError"], what
        assert "device-side assert" in error[1], what


def test_a_device_may_break_for_one_process_alone(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    Fault(Settings(break_at=1, break_gpu="0")).before_operator()
    with pytest.raises(KeyError):  # here, where nothing is pretended, there is no runtime to break
        Fault(Settings(break_at=1, break_gpu="1")).before_operator()


def test_settings_come_from_the_environment_and_unknown_ones_are_refused(monkeypatch):
    for name, value in as_environment({"GPUS": 2, "REPORT": Path("out")}).items():
        monkeypatch.setenv(name, value)
    assert Settings.from_environment() == Settings(gpus=2, report="out")
    with pytest.raises(ValueError, match=r"MEMORY.*there are .*GPU_MIB"):
        as_environment({"MEMORY": 1})


@pytest.mark.parametrize(
    ("where", "value", "missing"),
    [
        ("sys.platform", "darwin", "needs Linux"),
        ("torch.version.cuda", None, "built for no CUDA"),
        ("torch.version.cuda", "12.8", "this one is built for 12.8"),
        ("tests.pretended_gpu.launch.compiler", lambda: None, "C compiler named cc or gcc"),
        ("tests.pretended_gpu.launch.cuda_headers", lambda: None, "headers of the package triton"),
    ],
)
def test_what_is_missing_is_named(monkeypatch, where, value, missing):
    for name, there in (("sys.platform", "linux"), ("torch.version.cuda", "13.2")):
        monkeypatch.setattr(name, there)
    for name in ("compiler", "cuda_headers"):
        monkeypatch.setattr(f"tests.pretended_gpu.launch.{name}", lambda: "there")
    assert what_is_missing() == ""
    monkeypatch.setattr(where, value)
    assert missing in what_is_missing()


@pytest.mark.slow
@needs_pretended_gpu
def test_processes_that_compile_at_once_find_a_whole_library(tmp_path):
    code = "import ctypes; from tests.pretended_gpu.runtime import *; print(ctypes.CDLL(str(compiled_library()))._name)"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    processes = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True, cwd=CASES.parents[2])
        for _ in range(3)
    ]
    names = {process.communicate()[0] for process in processes}
    assert all(process.returncode == 0 for process in processes)
    (library,) = names
    assert Path(library.strip()).name == compiled_library().name
    assert list(Path(library.strip()).parent.iterdir()) == [Path(library.strip())]
