"""Fetching: files appear only whole and right, are held to their checksums, and two processes or a kill change nothing."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from fetching import CONTENT, NAME, OTHER, SHA256, assert_clean, get, published, refused, servers, unpublished

from pseudo_ris.cli.weights import main
from pseudo_ris.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def serve(monkeypatch):
    """Starts servers that are stopped after the test."""
    with servers(monkeypatch) as start:
        yield start


def test_whole_and_right_file_appears_under_its_name(tmp_path, serve):
    server = serve()
    assert get(published(server.url), tmp_path / "new") == tmp_path / "new" / NAME
    assert_clean(tmp_path / "new")
    assert [request.range for request in server.requests] == [None]


def test_file_that_is_there_is_verified_and_kept(tmp_path, serve):
    server = serve()
    (tmp_path / NAME).write_bytes(CONTENT)
    get(published(server.url), tmp_path)
    assert server.requests == []


@pytest.mark.parametrize(("content", "reason"), [(OTHER, "wrong content"), (CONTENT[:-1], "1000002 bytes instead of 1000003")])
def test_wrong_file_that_is_there_is_reported_and_not_touched(tmp_path, serve, content, reason):
    server = serve()
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(UserError, match=rf"{NAME} has .*{reason}.*move it away") as caught:
        get(published(server.url), tmp_path)
    assert "\n" not in str(caught.value)
    assert (tmp_path / NAME).read_bytes() == content
    (tmp_path / NAME).unlink()
    get(published(server.url), tmp_path)
    assert_clean(tmp_path)


def test_verifying_a_present_file_writes_nothing(tmp_path, serve):
    (tmp_path / NAME).write_bytes(CONTENT)
    get(published(serve().url), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_wrong_bytes_are_thrown_away(tmp_path, serve):
    server = serve(content=OTHER)
    message = refused(published(server.url), tmp_path)
    assert NAME in message and server.url in message and "wrong content" in message and "--from" in message
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    server.behaviour.content = CONTENT
    get(published(server.url), tmp_path)
    assert_clean(tmp_path)


def test_md5_is_held_to_where_only_that_is_published(tmp_path, serve):
    server = serve(content=OTHER)
    entry = replace(published(server.url), sha256=None, md5=hashlib.md5(CONTENT).hexdigest())
    assert "md5" in refused(entry, tmp_path)
    server.behaviour.content = CONTENT
    get(entry, tmp_path)
    assert_clean(tmp_path, "checksums.json")


def test_unpublished_checksum_is_recorded_and_held_to(tmp_path, serve):
    server = serve()
    entry = unpublished(server.url)
    get(entry, tmp_path)
    assert json.loads((tmp_path / "checksums.json").read_text()) == {NAME: SHA256}
    (tmp_path / NAME).unlink()
    server.behaviour.content = OTHER
    message = refused(entry, tmp_path)
    assert "recorded" in message and "checksums.json" in message
    server.behaviour.content = CONTENT
    get(entry, tmp_path)
    assert_clean(tmp_path, "checksums.json")
    (tmp_path / NAME).write_bytes(OTHER)
    with pytest.raises(UserError, match=r"recorded.*remove the record from .*checksums\.json") as caught:
        get(entry, tmp_path)
    assert "\n" not in str(caught.value)


def test_file_put_there_by_hand_is_recorded_beside_other_records(tmp_path, serve):
    (tmp_path / "checksums.json").write_text(json.dumps({"other.pth": "0" * 64}))
    (tmp_path / NAME).write_bytes(CONTENT)
    server = serve()
    get(unpublished(server.url), tmp_path)
    assert json.loads((tmp_path / "checksums.json").read_text()) == {NAME: SHA256, "other.pth": "0" * 64}
    assert server.requests == []


def test_files_are_taken_from_a_folder_without_a_network(tmp_path):
    source, target = tmp_path / "disk", tmp_path / "weights"
    source.mkdir()
    entry = published("https://example.org/weights.pth")
    message = refused(entry, target, source_folder=source)
    assert "does not exist" in message and entry.urls[0] in message
    (source / NAME).write_bytes(OTHER)
    assert "wrong content" in refused(entry, target, source_folder=source)
    (source / NAME).write_bytes(CONTENT)
    get(entry, target, source_folder=source)
    assert_clean(target)
    assert (source / NAME).read_bytes() == CONTENT


def test_target_that_cannot_be_written_is_one_line(tmp_path, serve):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write") as caught:
        get(published(serve().url), tmp_path / "file" / "folder")
    assert "\n" not in str(caught.value)


def test_full_disk_is_one_line_and_gone_on_with_after_more_space(tmp_path, serve):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting a small disk is not permitted")
    try:
        server = serve()
        assert "No space left" in refused(published(server.url), disk)
        (tmp_path / NAME).write_bytes(CONTENT)
        (disk / f".{NAME}.part").unlink()
        assert "No space left" in refused(published(server.url), disk, source_folder=tmp_path)
        assert "No space left" in refused(published(server.url), disk)
        subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
        get(published(server.url), disk)
        assert server.requests[-1].status == 206
        assert_clean(disk)
    finally:
        subprocess.run(["umount", disk], check=True)


def start_fetching(url, folder):
    """Another process that fetches the published file."""
    entry = f"WeightsFile('w', 'cutler', 'a', '{NAME}', 'MIT', 'tests', (sys.argv[1],), sha256='{SHA256}')"
    modules = "from pseudo_ris.checkpoints.download import fetch; from pseudo_ris.checkpoints.manifest import WeightsFile"
    code = f"import pathlib, sys; {modules}; fetch({entry}, pathlib.Path(sys.argv[2]))"
    return subprocess.Popen([sys.executable, "-c", code, url, folder], cwd=ROOT, stderr=subprocess.PIPE, text=True)


def wait_for(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_killed_process_leaves_nothing_and_the_next_one_asks_for_the_rest_only(tmp_path, serve):
    server = serve(stall_after=600_000)
    part = tmp_path / f".{NAME}.part"
    process = start_fetching(server.url, tmp_path)
    wait_for(lambda: part.exists() and part.stat().st_size > 400_000)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / NAME).exists()
    at_hand = part.stat().st_size
    server.behaviour.stall_after = None
    get(published(server.url), tmp_path)
    assert [(request.range, request.status) for request in server.requests] == [(None, 200), (f"bytes={at_hand}-", 206)]
    assert_clean(tmp_path)


@pytest.mark.slow
def test_two_processes_at_once_download_once(tmp_path, serve):
    server = serve(stall_after=300_000)
    first = start_fetching(server.url, tmp_path)
    wait_for(lambda: server.requests)
    second = start_fetching(server.url, tmp_path)
    assert "waiting for another process" in second.stderr.readline()
    server.behaviour.stall_after = None
    server.stop.set()  # the first request ends here, its process asks for the rest
    assert [first.wait(120), second.wait(120)] == [0, 0]
    assert sum(request.range is None for request in server.requests) == 1
    assert_clean(tmp_path)


def test_command_prints_paths_and_goes_on_after_an_error(tmp_path, capsys):
    source = tmp_path / "disk"
    source.mkdir()
    (source / "cutler_cascade_final.pth").write_bytes(CONTENT)
    assert main(["download", "sam_vit_b", "cutler", "--from", str(source), "--to", str(tmp_path / "to")]) == 2
    output = capsys.readouterr()
    assert output.out == f"{tmp_path / 'to' / 'cutler_cascade_final.pth'}\n"
    errors = [line for line in output.err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and "sam_vit_b_01ec64.pth" in errors[0]
    assert main(["download", "cutler", "--to", str(tmp_path / "to")]) == 0
    verify = ["verify", "cutler", "sam_vit_b", "--to", str(tmp_path / "to")]
    assert main(verify) == 0, "what is not there is not verified"
    (tmp_path / "to" / "cutler_cascade_final.pth").write_bytes(CONTENT[:-1] + b"?")
    assert main(verify) == 2
    assert "cutler" in capsys.readouterr().err


def test_command_lists_what_is_there(tmp_path, capsys, monkeypatch):
    (tmp_path / "RN50.pt").touch()
    monkeypatch.setenv("PSEUDO_RIS_WEIGHTS", str(tmp_path))
    assert main(["list"]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "256 MB" in rows["clip_rn50"] and " yes " in rows["clip_rn50"] and "MIT" in rows["clip_rn50"]
    assert "unknown" in rows["cutler"] and " no " in rows["cutler"]


def test_command_ends_in_one_line_with_exit_code_2(tmp_path):
    command = [sys.executable, "-m", "pseudo_ris.cli", "weights", "download", "sam_vit_x", "--to", tmp_path]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "COLUMNS": "80"})
    assert run.returncode == 2 and run.stdout == ""
    assert run.stderr.startswith("error: sam_vit_x: no such preset or file") and run.stderr.count("\n") == 1
    with pytest.raises(UserError, match=r"--from .*: no such folder"):
        main(["download", "cutler", "--from", str(tmp_path / "none")])
