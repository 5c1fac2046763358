"""Joining the processes of torchrun, and stopping after a step."""

from __future__ import annotations

import os
import signal

import pytest
import torch

from pseudo_ris.errors import UserError
from pseudo_ris.ris.processes import Processes, deferred_stop, joined


def test_alone_nothing_is_joined_and_all_items_are_its_own():
    with joined("cpu") as processes:
        assert (processes.rank, processes.count, processes.is_first) == (0, 1, True)
        assert processes.share([1, 2, 3]) == [1, 2, 3]
        assert processes.gather("x") == ["x"]
        assert processes.mean(torch.tensor([2.0])).tolist() == [2.0]
    assert not torch.distributed.is_initialized()


def test_shares_are_disjoint_and_complete():
    cpu = torch.device("cpu")
    assert [Processes(rank, 3, cpu).share(range(7)) for rank in range(3)] == [[0, 3, 6], [1, 4], [2, 5]]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_noted_and_the_work_goes_on(number):
    before = signal.getsignal(number)
    with deferred_stop() as stop:
        assert stop.signal == 0
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        assert stop.signal == number
    assert signal.getsignal(number) == before


def test_an_unknown_device_is_refused_before_anything_is_joined():
    with pytest.raises(UserError, match="--device abacus: not a device"), joined("abacus"):
        pass
