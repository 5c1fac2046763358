"""The processes that train together: one, or those that torchrun starts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import distributed

from pseudo_ris.errors import UserError
from pseudo_ris.io.device import pick_device

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

    def from_first(self, make: Callable[[], Item]) -> Item:
        """What `make` gives in the first process, in all of them: plain data in which tensors are on the CPU.

        Tensors are sent one at a time, through `device`. The UserError that `make` raises is raised in all of them.
        """
        if self.count == 1:
            return make()
        tensors: list[torch.Tensor] = []
        sent: list[Any] = [None, None]
        if self.is_first:
            try:
                sent[0] = _without_tensors(make(), tensors)
            except UserError as error:
                sent[1] = str(error)
        distributed.broadcast_object_list(sent, src=0)
        if sent[1] is not None:
            raise UserError(sent[1])
        return self._with_tensors(sent[0], iter(tensors))

    def _with_tensors(self, item: Any, tensors: Iterator[torch.Tensor]) -> Any:
        """`item` of `_without_tensors` with its tensors, those of the first process."""
        if isinstance(item, _Place):
            tensor = next(tensors) if self.is_first else torch.empty(item.shape, dtype=item.dtype)
            placed = tensor.to(self.device)
            distributed.broadcast(placed, src=0)
            return placed.cpu()
        if isinstance(item, dict):
            return {key: self._with_tensors(value, tensors) for key, value in item.items()}
        if isinstance(item, (list, tuple)):
            return type(item)(self._with_tensors(value, tensors) for value in item)
        return item


@dataclass(frozen=True)
class _Place:
    """Stands for a tensor."""

    shape: torch.Size
    dtype: torch.dtype


def _without_tensors(item: Any, taken: list[torch.Tensor]) -> Any:
    """`item` with a _Place for each tensor in its dictionaries, lists and tuples; these are appended to `taken`, in order."""
    if isinstance(item, torch.Tensor):
        taken.append(item.contiguous())
        return _Place(item.shape, item.dtype)
    if isinstance(item, dict):
        return {key: _without_tensors(value, taken) for key, value in item.items()}
    if isinstance(item, (list, tuple)):
        return type(item)(_without_tensors(value, taken) for value in item)
    return item


@contextmanager
def joined(device: str, allow_tf32: bool = False) -> Iterator[Processes]:
    """Joins the processes that torchrun started (RANK, WORLD_SIZE, LOCAL_RANK), by NCCL on GPUs and Gloo on CPUs.

    device: a `device` setting; several processes on GPUs have one each. Raises UserError when there are not enough.
    """
    rank, count, place = (int(os.environ.get(name, default)) for name, default in _VARIABLES)
    own = _own_device(device, place, count, allow_tf32)
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


def _own_device(name: str, place: int, count: int, allow_tf32: bool) -> torch.device:
    """The device of the process at `place` on this machine, of `count` in all."""
    device = pick_device(name, allow_tf32)
    if count == 1 or device.type != "cuda":
        return device
    if device.index is not None:
        raise UserError(f"--device {name}: {count} processes cannot train on one GPU; give cuda or auto")
    if place >= torch.cuda.device_count():
        raise UserError(f"--device {name}: more processes than the {torch.cuda.device_count()} GPUs; lower --nproc_per_node")
    return torch.device("cuda", place)
