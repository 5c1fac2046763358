"""How commands end: by signals, while they import or work, and into a pipe that nobody reads."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from generate_masks.cutler_sam_masks import main as generate_masks
from pseudo_ris.runtime.entry import importing
from pseudo_ris.storage.status import look_at

ROOT = Path(__file__).parents[2]


RECIPE = """
import signal
import sys
import time
from pseudo_ris.runtime import command

signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background of a shell's script begin without it

def main(argv):
    try:
        print("at work", flush=True)
        time.sleep(60)
    finally:
        print("tidied up", flush=True)
        if argv == ["and hangs"]:
            time.sleep(60)

command.TERMINATION_SECONDS = float(sys.argv.pop(1))
command.run_recipe(main)
"""


def recipe_at_work(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", RECIPE, *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "at work\n"
    return process


@pytest.mark.parametrize(("number", "code", "word"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")])
def test_a_signal_ends_a_recipe_cleanly_with_one_line(number, code, word):
    process = recipe_at_work("60")
    process.send_signal(number)
    said, error = process.communicate()
    assert (process.returncode, said) == (code, "tidied up\n")
    assert error == f"{word}; the same command goes on where this one stopped\n"


IMPORTING = """
import signal
import sys
import time
signal.signal(signal.SIGINT, signal.default_int_handler)
from pseudo_ris.runtime.entry import importing

with importing():
    try:
        print("importing", flush=True)
        time.sleep(60)
    except BaseException:
        pass  # a library that looks for an optional module
    print("imported after all", flush=True)
"""


def ended_by_ctrl_c(process: subprocess.Popen[str], line: str) -> tuple[int, str, str]:
    assert process.stdout.readline() == line
    process.send_signal(signal.SIGINT)
    said, error = process.communicate()
    return process.returncode, said, error


def test_ctrl_c_while_a_script_imports_is_one_line():
    command = [sys.executable, "-c", IMPORTING]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said = "interrupted; the same command goes on where this one stopped\n"
    assert ended_by_ctrl_c(process, "importing\n") == (130, "", said)


def test_ctrl_c_while_a_module_is_imported_as_a_command_is_one_line(tmp_path):
    """`pseudo-ris contact-sheet` where numpy hangs while it is imported."""
    (tmp_path / "numpy.py").write_text("print('importing', flush=True)\nimport time\ntime.sleep(60)\n")
    command = ["env", "--default-signal=INT", sys.executable, "-m", "pseudo_ris.cli", "contact-sheet"]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    said = "interrupted; the same command goes on where this one stopped\n"
    assert ended_by_ctrl_c(process, "importing\n") == (130, "", said)


def test_importing_leaves_ctrl_c_as_it_was():
    before = signal.getsignal(signal.SIGINT)
    with importing():
        assert before is not signal.default_int_handler or signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


WITHOUT_READER = """
import os
import sys
from pseudo_ris.runtime.command import run_recipe

def main(argv):
    print("x" * 100, flush=argv == ["at once"])
    if argv == ["help"]:
        sys.exit(0)
    if argv == ["else"]:
        raise BrokenPipeError("of a worker")
    return 0

run_recipe(main)
"""


@pytest.mark.parametrize("when", ["at once", "at the end", "help"])
def test_a_pipe_that_nobody_reads_ends_a_command_without_a_word(when):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-c", WITHOUT_READER, when]
    done = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_broken_pipe_elsewhere_is_not_hidden():
    done = subprocess.run([sys.executable, "-c", WITHOUT_READER, "else"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "of a worker" in done.stderr


@pytest.mark.slow
def test_what_does_not_let_go_is_ended_and_a_second_signal_changes_nothing():
    process = recipe_at_work("1.5", "and hangs")
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "tidied up\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate() == ("", "")
    assert process.returncode == 143


STAGE1 = ROOT / "generate_masks" / "cutler_sam_masks.py"
WORKER = "pseudo_ris.runtime.engine.worker"


def workers_of(process: subprocess.Popen) -> list[int]:
    """The engine's worker processes that a driver has started."""
    parents = {int(path.parent.name): path for path in Path("/proc").glob("[0-9]*/stat")}
    found = []
    for number, path in parents.items():
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            if parent == process.pid and WORKER in (path.parent / "cmdline").read_text():
                found.append(number)
        except OSError:
            continue
    return found


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["none", "local"])
def test_stage_1_that_is_terminated_goes_on_where_it_stopped(demo_images, tmp_path, capsys, engine):
    (tmp_path / "images").mkdir()
    for path in sorted(demo_images.iterdir())[:6]:
        shutil.copy(path, tmp_path / "images")
    command = [sys.executable, str(STAGE1), "--images", str(tmp_path / "images"), "--masks", str(tmp_path / "masks")]
    command += ["--engine", engine, "--workers", "1"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and len(list((tmp_path / "masks" / "_meta").glob("[!.]*.json"))) < 2:
        time.sleep(0.01)
    workers = workers_of(process)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (143, "terminated; the same command goes on where this one stopped\n")
    assert len(workers) == (engine == "local")
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    (seen,) = look_at(tmp_path / "masks").runs
    assert seen.state == "dead"
    assert generate_masks(command[2:]) == 0
    reused = int(re.search(r"(\d) reused, 0 failed", capsys.readouterr().out)[1])
    assert 2 <= reused < 6
    assert sorted(path.name for path in (tmp_path / "masks").glob(".*")) == []
    assert look_at(tmp_path / "masks").results == {"masks": 6}
