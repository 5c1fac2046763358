"""benchmarks/busy_core.py: the commands it runs, what it compares, and that its busy process ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import busy_core
import psutil
import pytest
from busy_core import DemoRun, demo_commands, differing, figures_of

ROOT = Path(__file__).parents[2]
WRITES = "import os, sys; from pathlib import Path; Path(sys.argv[1]).write_text({}); print('24 images')"


def run_of(seconds: float, **results: str) -> DemoRun:
    return DemoRun({"masks": seconds, "sheet": 1.0}, {"masks": 2**30, "sheet": 2**29}, results)


def test_the_commands_are_those_of_the_demo_s_script():
    script = (ROOT / "scripts" / "demo.sh").read_text()
    in_script = re.findall(r"^(?:python|pseudo-ris) ([^-]\S+(?: summary)?)", script, re.MULTILINE)
    commands = demo_commands(Path("S"), Path("F")).values()
    ours = [" ".join(command[2:]).split(" --")[0] if command[0] == "-m" else command[0] for command in commands]
    assert ours == in_script


def test_the_ratio_is_of_all_commands_and_of_medians_over_the_rounds():
    free, busy = [run_of(9.0), run_of(11.0), run_of(10.0)], [run_of(20.0), run_of(23.0), run_of(21.0)]
    figures = figures_of(free, busy, [0.5, 0.9, 0.7])
    assert (figures["seconds_free"], figures["seconds_busy"], figures["ratio"]) == (11.0, 22.0, 2.0)
    assert (figures["ratios"], figures["busy_share"], figures["peak_gib"], figures["rounds"]) == ([2.1, 2.0, 2.0], 0.7, 1.0, 3)


def test_changed_and_missing_results_are_named():
    first = run_of(1.0, a="1", b="2", c="3")
    assert differing([first, first]) == []
    assert differing([first, run_of(1.0, a="1", b="0"), first]) == ["b", "c"]


@pytest.mark.parametrize(("content", "code", "different"), [("'same'", 0, []), ("str(os.getpid())", 1, ["masks"])])
def test_differing_results_are_exit_code_1(monkeypatch, capsys, content, code, different):
    def commands(scenes: Path, folder: Path) -> dict[str, list[str]]:
        return {step: ["-c", WRITES.format(content), f"{folder}/masks"] for step in ("masks", "table")}

    monkeypatch.setattr(busy_core, "demo_commands", commands)
    monkeypatch.setattr(sys, "argv", ["busy_core.py"])
    assert busy_core.main() == code
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (figures["different"], figures["results"], figures["rounds"]) == (different, 2, 1)
    assert figures["ratio"] > 0


def test_a_failed_command_is_named_with_what_it_said(monkeypatch, tmp_path):
    monkeypatch.setattr(
        busy_core, "demo_commands", lambda scenes, folder: {"masks": ["-c", "raise SystemExit('no such scene')"]}
    )
    with pytest.raises(SystemExit, match=r"(?s)exit code 1.*no such scene"):
        busy_core.run_demo(ROOT, tmp_path / "run")


def test_the_busy_process_works_and_ends_with_its_block():
    with pytest.raises(ZeroDivisionError), busy_core.busy_core() as process:
        while process.cpu_times().user < 0.05:
            assert process.is_running()
        raise ZeroDivisionError
    assert not psutil.pid_exists(process.pid)


def test_the_busy_process_ends_after_its_parent_was_killed():
    code = f"import os, subprocess, sys\nbusy = subprocess.Popen([sys.executable, '-c', {busy_core.BUSY!r}, str(os.getpid())])"
    code += "\nprint(busy.pid, flush=True)\nbusy.wait()"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        busy = psutil.Process(int(parent.stdout.readline()))
        os.kill(parent.pid, signal.SIGKILL)
    busy.wait(timeout=60)
