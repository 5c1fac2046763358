"""The wheel: installed into an environment of its own, outside any checkout, it runs the demo."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from pseudo_ris.formats.refs import read_refs

ROOT = Path(__file__).parents[2]
SOURCES = ("pseudo_ris", "configs", "third_party/weights.yaml", "pyproject.toml", "setup.py", "README.md", "LICENSE")

EVERY_HELP = """
import sys
from pathlib import Path
import pseudo_ris
from pseudo_ris.cli import main
assert sys.prefix in pseudo_ris.__file__, pseudo_ris.__file__
for prefix, commands in (((), main.COMMANDS), (("lab",), main.LAB)):
    for command in commands:
        try:
            code = main.main([*prefix, command, "--help"])
        except SystemExit as ending:
            code = ending.code
        assert not code, (prefix, command, code)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel of the files that git tracks; built in a copy, since setuptools leaves files in the folder that it builds."""
    clone, dist = tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("dist")
    for name in SOURCES:
        (clone / name).parent.mkdir(exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, clone / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, clone / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", dist, clone]
    subprocess.run(command, check=True)
    (built,) = dist.iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The `bin` folder of an environment with the wheel; the dependencies come from the running environment."""
    environment = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin" / "python"
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = subprocess.run([python, "-c", ask], check=True, capture_output=True, text=True).stdout.strip()
    # .pth files in a folder that is itself named by one are not read, so an editable installation of the project is not seen.
    Path(packages, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(command, check=True)
    return python.parent


def run(command: list[object], folder: Path) -> str:
    """Output of a command that is started in `folder`, without this checkout on its path. It must succeed."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PSEUDO_RIS_WEIGHTS")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_holds_all_data(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    data = [*ROOT.glob("configs/*.yaml"), ROOT / "third_party" / "weights.yaml"]
    assert {f"pseudo_ris/assets/{path.relative_to(ROOT)}" for path in data} <= names
    suffixes = (".safetensors", ".gz", ".txt", ".html", ".css", ".js")
    tracked = [path for path in (ROOT / "pseudo_ris").rglob("*") if path.suffix in suffixes]
    assert len(tracked) >= 9
    assert {str(path.relative_to(ROOT)) for path in tracked} <= names
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in names)


@pytest.mark.slow
def test_an_installed_wheel_runs_the_demo(installed, tmp_path):
    said = run([installed / "pseudo-ris", "demo"], tmp_path)
    assert "objects that keep an expression" in said
    assert (tmp_path / "pseudo_ris_demo" / "contact_sheet.png").stat().st_size > 10_000
    images = {path.name: path.read_bytes() for path in (tmp_path / "pseudo_ris_demo" / "scenes" / "images").iterdir()}
    assert images == {path.name: path.read_bytes() for path in (ROOT / "datasets" / "demo" / "images").iterdir()}


@pytest.mark.slow
def test_every_command_of_an_installed_wheel_has_help(installed, tmp_path):
    assert "usage: pseudo-ris masks" in run([installed / "pseudo-ris", "masks", "--help"], tmp_path)
    run([installed / "python", "-c", EVERY_HELP], tmp_path)
    assert ".cache/pseudo-ris/weights" in run([installed / "pseudo-ris", "weights", "--help"], tmp_path)


@pytest.mark.slow
def test_an_installed_wheel_tells_about_itself_and_runs_the_snippet_of_the_readme(installed, tmp_path):
    said = run([installed / "pseudo-ris", "info"], tmp_path)
    assert re.search(r"^pseudo-ris +\d", said) and re.search(r"^torch +\d", said, re.MULTILINE)
    snippet = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL).group(1)
    Image.open(ROOT / "datasets" / "demo" / "images" / "scene_00000.png").convert("RGB").save(tmp_path / "photo.jpg")
    run([installed / "python", "-c", snippet], tmp_path)
    (exported,) = (tmp_path / "out" / "photo").glob("*/refs(*).p")
    assert read_refs(exported)
