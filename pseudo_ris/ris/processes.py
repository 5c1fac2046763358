"""The processes that train together: one, or those that torchrun starts."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TypeVar

import torch
from torch import distributed

from pseudo_ris.device import pick_device
from pseudo_ris.errors import UserError

GRACE = 5
# Of Linux's prctl.h.
PR_SET_PDEATHSIG = 1

Item = TypeVar("Item")


@dataclass(frozen=True)
class Processes:
    """This process among those that train together.

    rank: its number, from 0; the first prints and writes. count: how many there are. device: where its model is.
    """

    rank: int
    count: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> list[Item]:
        """This process's items: every count-th from the rank-th on."""
        return list(items[self.rank :: self.count])

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Mean over the processes of a float tensor on `device`."""
        if self.count > 1:
            values = values.clone()
            distributed.all_reduce(values)
            values /= self.count
        return values

    def gather(self, item: Item) -> list[Item]:
        """The item of each process, in the order of their ranks; in all of them."""
        if self.count == 1:
            return [item]
        items: list[Item | None] = [None] * self.count
        distributed.all_gather_object(items, item)
        return items


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """Joins the processes that torchrun started (RANK, WORLD_SIZE, LOCAL_RANK), by NCCL on GPUs and Gloo on CPUs.

    device: a `device` setting; several processes on GPUs have one each. Raises UserError when there are not enough.
    """
    rank, count, place = (int(os.environ.get(name, default)) for name, default in _VARIABLES)
    own = _own_device(device, place, count)
    if count == 1:
        yield Processes(0, 1, own)
        return
    if own.type == "cuda":
        torch.cuda.set_device(own)
    distributed.init_process_group("nccl" if own.type == "cuda" else "gloo")
    try:
        yield Processes(rank, count, own)
    finally:
        distributed.destroy_process_group()


_VARIABLES = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))


def _own_device(name: str, place: int, count: int) -> torch.device:
    """The device of the process at `place` on this machine, of `count` in all."""
    device = pick_device(name)
    if count == 1 or device.type != "cuda":
        return device
    if device.index is not None:
        raise UserError(f"--device {name}: {count} processes cannot train on one GPU; give cuda or auto")
    if place >= torch.cuda.device_count():
        raise UserError(f"--device {name}: more processes than the {torch.cuda.device_count()} GPUs; lower --nproc_per_node")
    return torch.device("cuda", place)


class StopRequest:
    """Whether this process was asked to end, and by which signal; 0 for none."""

    def __init__(self) -> None:
        self.signal = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """As a signal's handler. Torchrun sends it again to its processes, so a second one means no more than the first."""
        self.signal = number


@contextmanager
def deferred_stop() -> Iterator[StopRequest]:
    """Ctrl-C and SIGTERM are noted, instead of ending the process in the middle of a step."""
    request = StopRequest()
    previous = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def outlive_stop(worker: int) -> None:
    """For a loader's workers: asked to end, they go on for GRACE seconds, so that the process that trains can end its step.

    When that is killed they end at once, where the system can do that: they share its lock on the output folder.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "prctl"):
        library.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(GRACE))
    # With exit code 0, since another one would end the process that trains, too.
    signal.signal(signal.SIGALRM, lambda number, frame: os._exit(0))
