"""The notebooks of the documentation run from a folder of their own, with fewer scenes and steps than they show."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[2] / "docs" / "notebooks"
SMALLER = {"--count 6": "--count 2", "--train 8 --val 3 --test 3": "--train 3 --val 1 --test 1", "STEPS = 40": "STEPS = 12"}
LARGEST = 400_000
"""Bytes of a notebook with its pictures."""


@pytest.fixture
def kernel_environment(monkeypatch):
    """The kernel finds this checkout and the commands of the running environment."""
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOKS.parents[1]))
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "shown"), [("pairs_from_a_folder", 2), ("train_and_look", 2)])
def test_a_notebook_runs_and_shows_pictures(name, shown, tmp_path, kernel_environment):
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", 4)
    for cell in notebook.cells:
        for words, fewer in SMALLER.items():
            cell.source = cell.source.replace(words, fewer)
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == shown
    said = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    assert "error" not in said


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_is_shown_as_it_ran(path):
    """Every code cell has run in order, without an error or a warning, and the file stays small."""
    cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert all(output.output_type != "error" and output.get("name") != "stderr" for cell in cells for output in cell.outputs)
    assert path.stat().st_size < LARGEST
    assert any(words in cell.source for words in SMALLER for cell in cells), "the test above no longer makes it smaller"
