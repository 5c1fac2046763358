"""Commands set how OpenMP's threads wait before torch reads it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pseudo_ris.io.threads import WAIT_POLICY, sleep_while_waiting
from pseudo_ris.runtime.entry import importing

ROOT = Path(__file__).parents[2]
RECIPE = "generate_masks/cutler_sam_masks.py"


def test_the_user_s_choice_is_left_alone(monkeypatch):
    monkeypatch.setenv(WAIT_POLICY, "active")
    sleep_while_waiting()
    assert os.environ[WAIT_POLICY] == "active"


def test_threads_sleep_from_the_first_import_of_a_script_on(monkeypatch):
    monkeypatch.delenv(WAIT_POLICY, raising=False)
    with importing():
        assert os.environ[WAIT_POLICY] == "passive"


def run_command(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != WAIT_POLICY} | variables
    return subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)


def test_threads_sleep_from_the_first_import_of_a_module_on(tmp_path):
    """`pseudo-ris contact-sheet` with a numpy that says what it finds and ends the process."""
    (tmp_path / "numpy.py").write_text(f"import os\nprint(os.environ['{WAIT_POLICY}'])\nexit()\n")
    assert (
        run_command("-m", "pseudo_ris.cli", "contact-sheet", PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}").stdout == "passive\n"
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="GOMP_SPINCOUNT is a variable of libgomp, which torch has on Linux")
def test_torch_s_openmp_library_is_loaded_with_the_setting():
    shown = run_command(RECIPE, "--help", OMP_DISPLAY_ENV="verbose", PYTHONPATH=str(ROOT)).stderr
    assert "GOMP_SPINCOUNT = '0'" in shown
