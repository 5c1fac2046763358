"""The fault campaign finds what it looks for, and a few of its rounds."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import fault_runs
import faults
import pytest
from fault_check import compare, read_output
from fault_kinds import KINDS, Strike, _cut, can_mount, read_only_view, small_disk
from faults import Totals

ROOT = Path(__file__).parents[2]
FAULTS = ROOT / "benchmarks" / "faults.py"
TINY_STAGE = Path(__file__).parents[2] / "tests" / "helpers" / "tiny_stage.py"
TABLE = "img_id,seg_id,pseudo_caption\na,0,x\na,1,y\nb,0,z\n"


@pytest.fixture
def output(tmp_path):
    """Two folders of results as both stages leave them, in small."""
    for name, text in {
        "masks/a/0.png": "png",
        "masks/_meta/a.json": "{}",
        "pairs/pairs.csv": TABLE,
        "pairs/pairs.parts/a.json": "{}",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def read(folder: Path):
    return read_output(folder / "pairs" / "pairs.csv", folder / "masks", folder / "pairs")


def changed(folder: Path, change) -> tuple[int, int, tuple[str, ...]]:
    """Rows lost, rows doubled and files different after a change, beside before."""
    wanted = read(folder)
    change()
    difference = compare(read(folder), wanted)
    return difference.rows_lost, difference.rows_doubled, difference.files


def test_an_equal_output_has_no_difference(output):
    assert changed(output, lambda: None) == (0, 0, ())
    assert compare(read(output), read(output)).is_none


@pytest.mark.parametrize(
    ("table", "lost", "doubled"),
    [
        (TABLE.replace("a,1,y\n", ""), 1, 0),
        (TABLE + "a,1,y\n", 0, 1),
        (TABLE + "a,1,y\na,1,y\nc,0,w\n", 0, 3),
        (TABLE.replace("a,1,y\n", "b,0,z\n"), 1, 1),
        (TABLE.replace("img_id", "image"), 3, 0),
        (TABLE[: TABLE.index("a,1")], 2, 0),
        ("", 3, 0),
    ],
)
def test_lost_and_doubled_rows_are_counted(output, table, lost, doubled):
    path = output / "pairs" / "pairs.csv"
    assert changed(output, lambda: path.write_text(table)) == (lost, doubled, ("pairs/pairs.csv",))


def test_a_missing_table_is_all_rows_lost(output):
    assert changed(output, (output / "pairs" / "pairs.csv").unlink) == (3, 0, ("pairs/pairs.csv",))


def test_a_changed_byte_a_missing_file_and_leftovers_are_different_files(output):
    assert changed(output, lambda: (output / "masks/a/0.png").write_text("pnG")) == (0, 0, ("masks/a/0.png",))
    assert changed(output, (output / "masks/_meta/a.json").unlink) == (0, 0, ("masks/_meta/a.json",))
    assert changed(output, lambda: (output / "pairs/.pairs.csv.tmp").write_text("")) == (0, 0, ("pairs/.pairs.csv.tmp",))
    assert changed(output, (output / "masks/.b.tmp").mkdir) == (0, 0, ("masks/.b.tmp/",))


@pytest.mark.parametrize("planted", ["row", "doubled", "file", "promise"])
def test_one_of_any_kind_makes_the_campaign_fail(output, planted):
    wanted = read(output)
    path = output / "pairs" / "pairs.csv"
    tables = {"row": TABLE.replace("a,1,y\n", ""), "doubled": TABLE + "b,0,z\n", "file": TABLE.replace("z", "Z")}
    path.write_text(tables.get(planted, TABLE))
    broken = ["a normal run failed"] if planted == "promise" else []
    totals = Totals()
    totals.add([("kill_driver", Strike(True, ""))], compare(wanted, wanted), [])
    assert totals.is_clean
    totals.add([("kill_driver", Strike(False, ""))], compare(read(output), wanted), broken)
    assert not totals.is_clean
    assert (totals.rounds, totals.faults["kill_driver"], totals.hits["kill_driver"]) == (2, 2, 1)


def test_cutting_leaves_the_beginning_of_a_file_or_nothing(tmp_path):
    rng, path, content = random.Random(0), tmp_path / "file", bytes(range(200))
    ways = set()
    for _ in range(40):
        path.write_bytes(content)
        ways.add(_cut(path, rng).split()[0])
        left = path.read_bytes() if path.exists() else b""
        assert len(left) < len(content)
        assert content.startswith(left)
    assert ways == {"deleted", "emptied", "cut"}


def test_cutting_an_empty_file_is_no_error(tmp_path):
    (tmp_path / "file").touch()
    assert _cut(tmp_path / "file", random.Random(1)).startswith(("deleted", "emptied", "cut"))


@pytest.mark.skipif(not can_mount(), reason="mounting a small file system needs root")
def test_the_small_disk_ends_with_its_block(tmp_path):
    with small_disk(tmp_path):
        (tmp_path / "file").write_bytes(b"x")
        with pytest.raises(OSError, match="No space left"):
            (tmp_path / "large").write_bytes(bytes(5 << 20))
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not can_mount(), reason="mounting a read-only view needs root")
def test_a_read_only_view_stops_new_files_and_ends_with_its_block(tmp_path):
    with (tmp_path / "open").open("wb") as file:
        with read_only_view(tmp_path):
            with pytest.raises(OSError, match="Read-only file system"):
                (tmp_path / "new").touch()
            with pytest.raises(OSError, match="Read-only file system"):
                (tmp_path / "open").unlink()
            file.write(b"x")
        (tmp_path / "new").touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "open"]


@pytest.fixture
def campaign_of_tiny_stages(tmp_path, monkeypatch, capsys):
    """Runs the command on stages without models; gives its exit code and the JSON of its last line."""

    def play(*options: str) -> tuple[int, dict]:
        monkeypatch.setattr(sys, "argv", ["faults.py", "--scenes", "3", "--work", str(tmp_path / "work"), *options])
        code = faults.main()
        return code, json.loads(capsys.readouterr().out.splitlines()[-1])

    monkeypatch.setattr(fault_runs, "SCRIPTS", {1: TINY_STAGE, 2: TINY_STAGE})
    monkeypatch.setattr(faults, "OPTION_SETS", ((),))
    handler = signal.getsignal(signal.SIGTERM)
    yield play
    signal.signal(signal.SIGTERM, handler)


@pytest.mark.slow
def test_a_stage_that_keeps_its_promises_passes(campaign_of_tiny_stages):
    code, figures = campaign_of_tiny_stages("--rounds", "4", "--kinds", "kill_driver", "term_driver", "cut_files")
    names = ("rounds", "rows_lost", "rows_doubled", "files_different", "promises_broken")
    assert (code, *(figures[name] for name in names)) == (0, 4, 0, 0, 0, 0)
    assert figures["hits"]["cut_files"] == figures["faults"]["cut_files"] > 0


def test_a_stage_that_takes_what_lies_there_for_finished_fails(campaign_of_tiny_stages, tmp_path, monkeypatch):
    monkeypatch.setenv("CARELESS", "1")
    code, figures = campaign_of_tiny_stages("--rounds", "3", "--kinds", "cut_files")
    assert code == 1
    assert figures["files_different"]
    assert figures["rows_lost"]
    assert list((tmp_path / "work").glob("failed_*"))


def test_kinds_that_no_engine_here_can_show_are_refused(campaign_of_tiny_stages):
    with pytest.raises(SystemExit):
        campaign_of_tiny_stages("--kinds", "kill_node", "--engine", "local")


@pytest.mark.slow
def test_without_mounts_the_kinds_that_need_one_are_skipped(campaign_of_tiny_stages, monkeypatch):
    monkeypatch.setattr(faults, "can_mount", lambda: False)
    code, figures = campaign_of_tiny_stages("--rounds", "2", "--kinds", "full_disk", "cut_files")
    assert code == 0
    assert figures["skipped"]["full_disk"] >= 1
    assert set(figures["faults"]) == {"cut_files"}


@pytest.mark.slow
def test_rounds_of_cheap_kinds_leave_nothing_lost_doubled_or_different(tmp_path):
    kinds = ["kill_driver", "term_driver", "cut_files"]
    # A seed that draws one of each.
    command = [
        sys.executable,
        str(FAULTS),
        "--rounds",
        "3",
        "--seed",
        "18",
        "--scenes",
        "2",
        "--engine",
        "none",
        "--kinds",
        *kinds,
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    figures = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0, done.stdout + done.stderr
    names = ("rounds", "rows_lost", "rows_doubled", "files_different", "promises_broken")
    assert [figures[name] for name in names] == [3, 0, 0, 0, 0]
    assert figures["faults"] == dict.fromkeys(kinds, 1)
    assert figures["hits"].keys() == figures["faults"].keys() <= KINDS.keys()
