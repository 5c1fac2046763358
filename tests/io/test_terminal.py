"""Progress and messages on a terminal, in a log, and where nothing is to be shown."""

from __future__ import annotations

import io
import re
import subprocess
import sys

import pytest

from pseudo_ris.io import terminal
from pseudo_ris.io.terminal import ProgressBar, print_error, progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def terminal_of(monkeypatch) -> Terminal:
    """Standard error as a terminal. In the test itself, since pytest captures anew after a fixture."""
    shown = Terminal()
    monkeypatch.setattr("sys.stderr", shown)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    return shown


def test_a_terminal_shows_count_unit_and_note(monkeypatch):
    screen = terminal_of(monkeypatch)
    with ProgressBar("pairs", 10, done=3, unit="images") as bar:
        bar.update(note="2 failed")
        bar.update(2)
    last = re.sub(r"\033\[[\d;?]*\w", "", screen.getvalue()).split("\r")[-1]
    assert last.split()[0] == "pairs" and "6/10 images" in last and "2 failed" in last


def test_bytes_are_shown_as_such(monkeypatch):
    screen = terminal_of(monkeypatch)
    with ProgressBar("sam.pth", 4_000_000, unit="B") as bar:
        bar.update(3_000_000)
    assert "3.0/4.0 MB" in screen.getvalue()


def test_a_note_is_no_markup(monkeypatch):
    screen = terminal_of(monkeypatch)
    with ProgressBar("pairs", 2) as bar:
        bar.update(note="[red]dog[/red]")
    assert "[red]dog[/red]" in screen.getvalue()


def test_a_log_gets_a_line_a_minute(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    bar = ProgressBar("training", 200, unit="steps")
    with bar:
        for step in range(1, 151):
            now[0] = float(step)
            bar.update(note=f"loss 0.{step}")
    assert capsys.readouterr().err == "training: 60 of 200 steps loss 0.60\ntraining: 120 of 200 steps loss 0.120\n"


@pytest.mark.parametrize("settings", [{"plain": False}, {"shown": False}])
def test_a_log_gets_nothing_where_it_is_not_asked_for(settings, monkeypatch, capsys):
    monkeypatch.setattr(terminal, "PLAIN_SECONDS", 0.0)
    assert list(progress(range(3), "scenes", 3, **settings)) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_nothing_is_shown_on_a_terminal_when_it_is_not_to_be(monkeypatch):
    screen = terminal_of(monkeypatch)
    assert list(progress(range(3), "scenes", 3, shown=False)) == [0, 1, 2]
    assert screen.getvalue() == ""


def test_an_error_is_red_on_a_terminal_only(monkeypatch, capsys):
    screen = terminal_of(monkeypatch)
    print_error("masks: no such folder")
    assert screen.getvalue() == "\033[31merror:\033[0m masks: no such folder\n"
    monkeypatch.undo()
    print_error("masks: no such folder")
    assert capsys.readouterr().err == "error: masks: no such folder\n"


def test_rich_is_imported_for_a_terminal_only():
    code = (
        "import sys; from pseudo_ris.io.terminal import progress; list(progress(range(3), 'x', 3)); "
        "sys.exit('rich' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
