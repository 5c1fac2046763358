"""What `pseudo-ris status` says of runs under way, dead and ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from pseudo_ris.cli.status import main
from pseudo_ris.errors import UserError
from pseudo_ris.records import ImageRecord
from pseudo_ris.runtime.image_loop import Outcome
from pseudo_ris.runtime.runs import EXIT_FAILURES, Run
from pseudo_ris.runtime.shares import ALL, Shard, reading_from, roles_at_work, working_in
from pseudo_ris.runtime.status_file import read_status, status_path, write_status
from pseudo_ris.storage.status import look_at, stage_folders

ROOT = Path(__file__).parents[2]
IMAGES = [ImageRecord(name, f"{name}.jpg", bytes) for name in "abcdef"]
HALVES = (Shard(0, 2), Shard(1, 2))
WORK = """
import sys
from pathlib import Path
from pseudo_ris.runtime.image_loop import Outcome
from pseudo_ris.records import ImageRecord
from pseudo_ris.runtime.runs import Run
from pseudo_ris.runtime.shares import Shard, working_in
folder, shard = Path(sys.argv[1]), Shard.parse(sys.argv[2])
images = [ImageRecord(name, f"{name}.jpg", bytes) for name in "abcdef"]
with working_in(folder, shard), Run("masks", folder, images, False, shard) as run:
    print("at work", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def masks(tmp_path) -> Path:
    """A folder of masks in which two images have results."""
    folder = tmp_path / "masks"
    (folder / "_meta").mkdir(parents=True)
    for name in ("a.json", "b.json", ".c.json.12345678.tmp", ".c.json"):
        (folder / "_meta" / name).touch()
    return folder


@pytest.fixture
def pairs(tmp_path) -> Path:
    """A folder of pairs in which one image has a part."""
    folder = tmp_path / "pairs"
    (folder / "captions.parts").mkdir(parents=True)
    (folder / "captions.parts" / "a.json").touch()
    return folder


@contextmanager
def at_work(folder: Path, shard: Shard = ALL):
    with working_in(folder, shard), Run("masks", folder, IMAGES, False, shard) as run:
        yield run


@contextmanager
def process_at_work(folder: Path, shard: str = "0/1"):
    """A run in a process of its own, which is killed in the end if it has not been before."""
    command = [sys.executable, "-c", WORK, str(folder), shard]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    try:
        assert process.stdout.readline() == b"at work\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def say(folder: Path, capsys) -> tuple[int, list[str]]:
    code = main([str(folder)])
    return code, [line.replace(str(folder), "OUT") for line in capsys.readouterr().out.splitlines()]


def states(folder: Path) -> list[tuple[str, str]]:
    return [(str(run.shard), run.state) for run in look_at(folder).runs]


def test_a_run_under_way_in_another_process(masks, capsys):
    with process_at_work(masks) as process:
        code, lines = say(masks, capsys)
    assert code == 0
    assert lines[0] == "OUT: masks"
    assert lines[1].startswith(f"  under way: masks on {os.uname().nodename} (process {process.pid}) since 2")
    assert lines[2:] == ["    0 of 6 images", "  masks: results of 2 images"]


def test_figures_of_a_run_with_workers(masks, capsys):
    with at_work(masks):
        path = status_path(masks, ALL)
        told = replace(read_status(path), counts={"made": 2}, failed=1, rate=0.1, engine="ray", alive=3, workers=4)
        write_status(path, replace(told, dashboard="http://h:8265"))
        _, lines = say(masks, capsys)
    assert lines[2:4] == [
        "    2 of 6 images, 0.1 images/s, 0:00:40 left, 1 failed, 3 of 4 workers",
        "    dashboard http://h:8265",
    ]


def test_a_killed_run_is_dead_until_the_next_has_ended(masks, capsys):
    with process_at_work(masks) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        code, lines = say(masks, capsys)
        assert (code, states(masks)) == (0, [("0/1", "dead")])
        assert lines[1].startswith("  dead: masks on ")
        assert "not updated for" in lines[1]
        assert lines[3] == "    the same command goes on where this one stopped"
    with at_work(masks):
        assert states(masks) == [("0/1", "under way")]
    assert say(masks, capsys) == (0, ["OUT: masks", "  no run is under way", "  masks: results of 2 images"])


def test_shards_are_told_apart(masks):
    with at_work(masks, HALVES[0]), process_at_work(masks, "1/2") as process:
        assert states(masks) == [("0/2", "under way"), ("1/2", "under way")]
        process.kill()
        process.wait()
        assert states(masks) == [("0/2", "under way"), ("1/2", "dead")]
    assert states(masks) == [("1/2", "dead")]


def test_looking_changes_nothing_and_hinders_nobody(masks):
    with process_at_work(masks) as process:
        before = sorted(masks.rglob("*"))
        look_at(masks)
        assert sorted(masks.rglob("*")) == before
        with pytest.raises(UserError, match="another run is at work"), at_work(masks):
            pass
        process.kill()
    look_at(masks)
    with at_work(masks):
        pass
    assert sorted(path.name for path in masks.iterdir()) == ["_meta"]


def test_a_run_that_has_not_said_anything_yet(masks, capsys):
    with working_in(masks, ALL):
        _, lines = say(masks, capsys)
    assert lines[1] == "  under way: a run; it has not said yet how far it is, or puts the files together"


def test_masks_that_stage_2_reads(masks, capsys):
    with reading_from(masks):
        assert roles_at_work(masks) == {"readers"}
        assert say(masks, capsys)[1][1] == "  no run is under way; stage 2 reads it"


def test_a_run_on_another_machine_whose_lock_is_not_seen(masks):
    with at_work(masks) as run:
        status = replace(run.status(), host="elsewhere")
    write_status(status_path(masks, ALL), status)
    assert states(masks) == [("0/1", "unknown")], "it has just said how far it is"
    write_status(status_path(masks, ALL), replace(status, updated=status.updated - 60))
    (seen,) = look_at(masks).runs
    assert (seen.state, round(seen.silent)) == ("dead", 60)


def test_a_lock_that_cannot_be_looked_at(masks):
    with at_work(masks) as run:
        status = run.status()
    write_status(status_path(masks, ALL), status)
    (masks / ".lock.0-of-1").mkdir()
    assert states(masks) == [("0/1", "under way")], "as it has just said how far it is"
    write_status(status_path(masks, ALL), replace(status, updated=status.updated - 60))
    assert states(masks) == [("0/1", "unknown")]


def test_a_driver_that_hangs(masks, capsys):
    with at_work(masks) as run:
        write_status(status_path(masks, ALL), replace(run.status(), updated=run.status().updated - 45))
        _, lines = say(masks, capsys)
    assert lines[1].startswith("  under way: ")
    assert lines[1].endswith(", not updated for 45 s")


def test_failures_are_listed_and_give_code_3(pairs, capsys):
    with at_work(pairs) as run:
        for image in IMAGES[:-1]:
            run.take(image, Outcome(image.name, "failed", f"{image.name}: is bad", "k"))
        run.take(IMAGES[-1], Outcome("f.jpg", "failed", "ValueError: x", "k", "Traceback\n"))
        run.close()
    capsys.readouterr()
    code, lines = say(pairs, capsys)
    assert code == EXIT_FAILURES
    assert lines[2:] == [
        "  captions: results of 1 images",
        "  failed: 6, for example:",
        *(f"    {name}.jpg: is bad" for name in "abcde"),
        "    all in OUT/failures.csv",
        "    tracebacks in OUT/_failures",
    ]


def test_failures_of_shards_count(masks):
    for shard in HALVES:
        with at_work(masks, shard) as run:
            run.take(run.records[0], Outcome(run.records[0].name, "failed", "bad"))
    assert [failure.image for failure in look_at(masks).failures] == ["a.jpg", "b.jpg"]


def test_a_folder_above_shows_both_stages(masks, pairs, tmp_path, capsys):
    (tmp_path / "else").mkdir()
    assert stage_folders(tmp_path) == [masks, pairs]
    with at_work(pairs):
        assert main([str(tmp_path), "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["kind"], first["results"], first["runs"]) == ("masks", {"masks": 2}, [])
    assert (second["kind"], second["results"], second["failed"]) == ("pairs", {"captions": 1}, 0)
    (run,) = second["runs"]
    assert (run["state"], run["shard"], run["status"]["total"]) == ("under way", "0/1", 6)
    assert run["status"]["seconds_left"] is None


@pytest.mark.parametrize("name", ["nothing", "file", "."])
def test_other_folders_are_refused_in_one_line(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"no such folder; give|neither masks nor pairs of a run are in it") as caught:
        main([str(tmp_path / name)])
    assert "\n" not in str(caught.value)


def test_the_command_exits_with_2_where_there_is_nothing(tmp_path):
    command = [sys.executable, "-m", "pseudo_ris.cli", "status", str(tmp_path / "nothing")]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (finished.returncode, finished.stdout) == (2, "")
    assert finished.stderr.startswith("error: ")
