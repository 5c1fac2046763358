"""Ctrl-C and SIGTERM: noted while a step is under way, answered at once otherwise."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pseudo_ris.runtime.stopping import StoppedError, stop_request

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_noted_and_the_work_goes_on(number):
    before, descriptor = signal.getsignal(number), signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(descriptor)
    with stop_request() as stop, stop.at_once(), stop.deferred():
        assert stop.signal == 0
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        assert stop.signal == number
    assert signal.getsignal(number) == before
    assert signal.set_wakeup_fd(descriptor) == descriptor


def test_at_once_a_signal_is_raised_once_whether_it_comes_then_or_came_before():
    with stop_request() as stop:
        with pytest.raises(StoppedError), stop.at_once():
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("must have been raised before this")
        os.kill(os.getpid(), signal.SIGINT)  # torchrun repeats a signal
        assert stop.signal == signal.SIGTERM
        with pytest.raises(StoppedError), stop.at_once():
            raise AssertionError("must have been raised before this")


STUCK = """
import ctypes
from contextlib import suppress
from pseudo_ris.runtime import stopping
stopping.ANSWER_SECONDS = 0.1
library, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)  # zeros are an open pthread_mutex_t
with stopping.stop_request() as stop, stop.{mode}():
    library.pthread_mutex_lock(mutex)
    with suppress(stopping.StoppedError):  # of a signal that comes before the wait
        print("locked", flush=True)
        library.pthread_mutex_lock(mutex)  # waits for ever; no signal ends it
    library.pthread_mutex_lock(mutex)
"""


def test_a_process_that_hangs_in_a_library_is_ended_when_it_is_to_stop_at_once():
    command = [sys.executable, "-c", STUCK.format(mode="at_once")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "locked\n"
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert error == "stopped by force; the same command goes on from the last checkpoint\n"


def test_a_step_that_is_under_way_is_not_ended_by_force():
    command = [sys.executable, "-c", STUCK.format(mode="deferred")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "locked\n"
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.communicate(timeout=0.5)
    process.kill()
    process.communicate()
