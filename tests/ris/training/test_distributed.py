"""Joining the processes of torchrun."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from pseudo_ris.errors import UserError
from pseudo_ris.ris.training.distributed import Processes, joined

ROOT = Path(__file__).parents[3]


def test_alone_nothing_is_joined_and_all_items_are_its_own():
    with joined("cpu") as processes:
        assert (processes.rank, processes.count, processes.is_first) == (0, 1, True)
        assert processes.share([1, 2, 3]) == [1, 2, 3]
        assert processes.gather("x") == ["x"]
        assert processes.from_first(lambda: "x") == "x"
        assert processes.mean(torch.tensor([2.0])).tolist() == [2.0]
    assert not torch.distributed.is_initialized()


def test_shares_are_disjoint_and_complete():
    cpu = torch.device("cpu")
    assert [Processes(rank, 3, cpu).share(range(7)) for rank in range(3)] == [[0, 3, 6], [1, 4], [2, 5]]


WAITING = """
from pseudo_ris.runtime import stopping
from pseudo_ris.ris.training.distributed import joined
stopping.ANSWER_SECONDS = 0.2
with stopping.stop_request() as stop, stop.at_once():
    print("joining", flush=True)
    with joined("cpu"):
        pass
"""


@pytest.mark.slow
def test_a_process_that_waits_for_the_others_ends_when_it_is_asked_to():
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        port = str(listening.getsockname()[1])
    group = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    command = [sys.executable, "-c", WAITING]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **group}, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "joining\n"
    while True:
        with suppress(ConnectionRefusedError), socket.create_connection(("localhost", int(port))):
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 128 + signal.SIGINT
    process.stdout.close()


def test_an_unknown_device_is_refused_before_anything_is_joined():
    with pytest.raises(UserError, match="--device abacus: not a device"), joined("abacus"):
        pass
