"""What is shown of a run while it goes."""

import io
import json
import time

import pytest

from pseudo_ris.runtime import progress
from pseudo_ris.runtime.progress import Heartbeat, Pace, ProgressLine
from pseudo_ris.runtime.status_file import Status, read_status


def status(**changes) -> Status:
    told = {"stage": "masks", "host": "h", "pid": 1, "started": 0.0, "updated": 0.0, "total": 100, "counts": {}, "failed": 0}
    return Status(**told | changes)


class Terminal(io.StringIO):
    def isatty(self):
        return True


class State:
    """A run whose state a test sets."""

    def __init__(self):
        self.now = status()
        self.asked = 0

    def __call__(self):
        self.asked += 1
        return self.now


def test_a_status_in_words():
    working = status(counts={"made": 30, "reused": 20}, failed=3, rate=0.5, alive=1, workers=2)
    assert str(working) == "50 of 100 images, 0.5 images/s, 0:01:40 left, 3 failed, 1 of 2 workers"
    assert str(status()) == "0 of 100 images"
    assert str(status(counts={"made": 100}, rate=2.0)) == "100 of 100 images, 2 images/s"


def test_the_pace_is_that_of_the_last_two_minutes():
    pace = Pace()
    assert pace.rate(0, 7) == 0
    assert pace.rate(10, 27) == 2
    assert [pace.rate(10 + 2 * beat, 27) for beat in range(1, 70)][-1] == 0
    assert pace.rate(150, 87) == pytest.approx(60 / 120)
    assert len(pace._seen) < 65


def test_a_terminal_shows_one_line_with_failures_and_workers(monkeypatch):
    terminal, state = Terminal(), State()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    state.now = status(total=3, counts={"reused": 1}, failed=1, alive=1, workers=2)
    with ProgressLine(state) as line:
        line.step()
        line.step()
    shown = terminal.getvalue()
    assert "masks" in shown
    assert "1/3" in shown, "what was settled before is not to do"
    assert "3/3" in shown.split("\r")[-1]
    assert "1 failed, 1 of 2 workers" in shown
    assert shown.count("\n") == 1


def test_without_a_terminal_there_is_no_line_and_the_state_is_not_asked(capsys):
    state = State()
    with ProgressLine(state) as line:
        for _ in range(100):
            line.step()
    assert state.asked == 1
    assert capsys.readouterr().err == ""


def until(condition):
    for _ in range(12_000):
        if condition():
            return
        time.sleep(0.005)
    raise AssertionError("has not come")


def test_the_status_file_follows_the_run_and_goes_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "BEAT_SECONDS", 0.01)
    path, state = tmp_path / ".status.json", State()
    with Heartbeat(path, state):
        assert read_status(path).counts == {}, "at once"
        state.now = status(counts={"made": 5})
        until(lambda: read_status(path).counts == {"made": 5})
        assert read_status(path).rate > 0
        assert json.loads(path.read_text())["stage"] == "masks"
    assert list(tmp_path.iterdir()) == []


def test_the_status_file_stays_with_the_last_state_after_an_error(tmp_path):
    path, state = tmp_path / ".status.json", State()
    with pytest.raises(ZeroDivisionError), Heartbeat(path, state):
        state.now = status(counts={"made": 7})
        raise ZeroDivisionError
    assert read_status(path).counts == {"made": 7}


def test_a_status_file_that_cannot_be_written_ends_no_run(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "BEAT_SECONDS", 0.01)
    path, state = tmp_path / ".status.json", State()
    path.mkdir()
    with Heartbeat(path, state):
        until(lambda: state.asked > 3)
        until(lambda: list(tmp_path.glob("*.tmp")))
        path.rmdir()
    assert list(tmp_path.iterdir()) == [], "nor what was half-written"


def test_without_a_terminal_a_plain_line_comes_now_and_then(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "BEAT_SECONDS", 0.01)
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.05)
    state = State()
    state.now = status(counts={"made": 5}, failed=2)
    with Heartbeat(tmp_path / ".status.json", state):
        until(lambda: state.asked > 20)
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert 1 <= len(lines) < state.asked
    assert set(lines) == {"masks: 5 of 100 images, 2 failed"}
    assert said.out == ""


def test_a_terminal_gets_no_plain_line(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "BEAT_SECONDS", 0.01)
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.0)
    terminal, state = Terminal(), State()
    monkeypatch.setattr("sys.stderr", terminal)
    with Heartbeat(tmp_path / ".status.json", state):
        until(lambda: state.asked > 5)
    assert terminal.getvalue() == ""


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"stage": 1}', b"\xff\xfe"])
def test_what_is_no_status_file_is_none(tmp_path, content):
    assert read_status(tmp_path / ".status.json") is None
    (tmp_path / ".status.json").write_bytes(content)
    assert read_status(tmp_path / ".status.json") is None
