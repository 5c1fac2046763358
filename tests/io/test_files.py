"""Atomic writes and hashing."""

import errno
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pseudo_ris.config import CropConfig
from pseudo_ris.errors import UserError
from pseudo_ris.io.files import digest, prepare_folder, replace_folder, require_file_place, write_atomic, write_output

ROOT = Path(__file__).parents[2]


def test_write_replaces_whole_files_and_leaves_nothing_behind(tmp_path):
    write_atomic(tmp_path / "sub" / "a.txt", "ä")
    write_atomic(tmp_path / "sub" / "a.txt", b"b")
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["a.txt"]
    assert (tmp_path / "sub" / "a.txt").read_bytes() == b"b"


def test_a_write_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(path, data):
        with path.open("wb") as file:
            file.write(data[:1])
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "a.txt").write_text("before")
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="No space left"):
        write_atomic(tmp_path / "a.txt", "after")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "before"


KILLED = """
import os, signal, sys
from pathlib import Path
from pseudo_ris.io.files import write_output
Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
write_output(Path(sys.argv[1]), "half")
"""


def test_what_a_killed_command_left_is_removed_by_the_next(tmp_path):
    others = [".r.html.bak.tmp", ".r.htm.01234567.tmp", ".r.html", "r.html.01234567.tmp"]
    for name in others:
        (tmp_path / name).touch()
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "r.html")], cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == len(others) + 1
    write_output(tmp_path / "r.html", "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, "r.html"])
    assert (tmp_path / "r.html").read_text() == "whole"


def test_a_folder_cannot_be_an_output_file(tmp_path):
    require_file_place(tmp_path / "a.txt", "--sheet")
    with pytest.raises(UserError, match=r"^--sheet .*: is a folder; give the name of a file$"):
        require_file_place(tmp_path, "--sheet")


def test_folder_holds_exactly_the_files(tmp_path):
    replace_folder(tmp_path / "x", {"0.png": b"0", "1.png": b"1"})
    replace_folder(tmp_path / "x", {"2.png": b"2"})
    assert [path.name for path in tmp_path.rglob("*")] == ["x", "2.png"]


REPLACER = """
import sys
from pathlib import Path
from pseudo_ris.io.files import replace_folder, write_atomic
for _ in range(300):
    replace_folder(Path(sys.argv[1]) / "x", {f"{n}.png": b"same" for n in range(5)})
    write_atomic(Path(sys.argv[1]) / "x.json", "same" * 10000)
"""


@pytest.mark.slow
def test_two_processes_that_write_the_same_do_not_harm_each_other(tmp_path):
    """A worker that was taken for dead finishes its image while another makes it anew."""
    writers = [subprocess.Popen([sys.executable, "-c", REPLACER, str(tmp_path)], cwd=ROOT) for _ in range(2)]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        if (tmp_path / "x.json").exists():
            seen.add((tmp_path / "x.json").read_text())
    assert [writer.returncode for writer in writers] == [0, 0]
    assert seen == {"same" * 10000}, "never a part of it"
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == [f"{n}.png" for n in range(5)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x", "x.json"]


def test_preparing_clears_leftovers_only(tmp_path):
    (tmp_path / ".a.json.tmp").touch()
    (tmp_path / ".b.tmp").mkdir()
    (tmp_path / ".b.tmp" / "0.png").touch()
    (tmp_path / "c.tmp").touch()
    (tmp_path / ".keep").touch()
    prepare_folder(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".keep", "c.tmp"]


def test_preparing_beside_other_runs_clears_nothing(tmp_path):
    (tmp_path / ".a.json.tmp").touch()
    prepare_folder(tmp_path, clear=False)
    assert [path.name for path in tmp_path.iterdir()] == [".a.json.tmp"]


def test_a_place_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*run the same command again"):
        prepare_folder(tmp_path / "file" / "folder")


def test_digest_depends_on_every_part_and_its_bounds():
    assert digest(b"ab", b"c") != digest(b"a", b"bc")
    assert digest(CropConfig(antialias=True)) != digest(CropConfig(antialias=False))
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
