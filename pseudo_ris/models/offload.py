"""Which models of a stage are on the device: each is loaded when it is first used, and makes room for the others if need be."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import nn

from pseudo_ris.config import Residency
from pseudo_ris.errors import DeviceError, UserError
from pseudo_ris.io.device_faults import first_line, is_out_of_memory, release_cached_memory
from pseudo_ris.io.machine import free_memory, total_memory

GPU_WORKSPACE_BYTES = 6 * 2**30
"""What a stage takes on a GPU beside the weights: SAM's prompts at once, CoCa's caches."""

HOST_BASE_BYTES = 2**30
"""What a process takes on a CPU beside twice its weights: 0.95 GiB in all with the demo models; at full size stage 1 takes 5.3
GiB with 2.6 GiB of weights."""

SMALL_SHARE = 1 / 16
"""Weights that take less of the memory than this gain nothing by leaving it."""


class HasModel(Protocol):
    """An adapter of a model. model: all weights that it has on the device."""

    model: nn.Module


Adapter = TypeVar("Adapter", bound=HasModel)


class ModelRoom:
    """The models of a stage on one device.

    Args:
        in_turn: the weights of at most one model are on the device. Those of the others wait in (pinned) host memory; where
            the device is the CPU there is no other memory, so they are dropped, and read from their file when they are used
            again.
    """

    def __init__(self, device: torch.device, in_turn: bool) -> None:
        self.device = device
        self.in_turn = in_turn
        self._models: list[_Lazy] = []

    def model(self, load: Callable[[], Adapter]) -> Adapter:
        """Stands for the adapter that `load` makes; the first use of any attribute loads it.

        Any use raises UserError when the device's memory does not suffice for the weights.
        """
        lazy = _Lazy(self, load)
        self._models.append(lazy)
        return cast(Adapter, lazy)

    def make_room(self, for_model: _Lazy) -> None:
        """Takes the other models off the device when only one may be there."""
        if self.in_turn:
            for model in self._models:
                if model is not for_model:
                    model.leave()
            release_cached_memory()

    def explain(self, error: RuntimeError) -> UserError:
        """What to do about weights for which memory does not suffice."""
        remedies = ["a lower precision (bf16 or fp16)", "fewer workers a device (--workers, --gpus-per-worker)"]
        if not self.in_turn:
            remedies.insert(0, "--residency in_turn")
        others = ", ".join(remedies)
        return UserError(f"the models do not fit in the memory of {self.device}: try {others} ({first_line(error)})")


class _Lazy:
    """An adapter that is loaded at the first look at it, and brought back when it had to leave."""

    def __init__(self, room: ModelRoom, load: Callable[[], Any]) -> None:
        self._room, self._load = room, load
        self._adapter: Any = None
        self._away: HostWeights | None = None
        self._is_here = False

    def __getattr__(self, name: str) -> Any:
        if not self._is_here:
            self._room.make_room(self)
            try:
                self._arrive()
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise self._room.explain(error) from error
                raise
        return getattr(self._adapter, name)

    def leave(self) -> None:
        """Takes the weights off the device."""
        if not self._is_here:
            return
        self._is_here = False
        if self._room.device.type == "cpu":
            self._adapter = None
        else:
            self._away = self._away or HostWeights(self._adapter.model)
            self._away.take_off()

    def _arrive(self) -> None:
        if self._away is not None:
            self._away.bring_back()
        elif self._adapter is None:
            self._adapter = self._load()
        self._is_here = True


class HostWeights:
    """The weights of a model, which must not change, in host memory; on the device they can be freed and filled again.

    It empties the tensors' storages and leaves the tensors as they are, so that what refers to them, such as views, caches and
    compiled code, stays valid.
    """

    def __init__(self, model: nn.Module) -> None:
        tensors = chain(model.parameters(), model.buffers())
        # Tied weights and views share a storage.
        storages = {storage.data_ptr(): storage for tensor in tensors if (storage := tensor.untyped_storage()).nbytes()}
        self._kept = [(storage, _to_host(storage)) for storage in storages.values()]

    def take_off(self) -> None:
        """Frees the device's memory."""
        for storage, _ in self._kept:
            storage.resize_(0)

    def bring_back(self) -> None:
        """Fills the device's memory again."""
        for storage, kept in self._kept:
            storage.resize_(kept.nbytes)
            _as_bytes(storage).copy_(kept, non_blocking=True)


def _as_bytes(storage: torch.UntypedStorage) -> torch.Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def _to_host(storage: torch.UntypedStorage) -> torch.Tensor:
    """The bytes of a storage, in pinned memory where it is a GPU's."""
    kept = torch.empty(storage.nbytes(), dtype=torch.uint8, pin_memory=storage.device.type == "cuda")
    return kept.copy_(_as_bytes(storage))


def takes_turns(residency: Residency, device: torch.device, weights: Callable[[], int], memory_share: float = 1.0) -> bool:
    """Whether a stage's models are on the device one at a time; "auto": when all of them and a workspace exceed what is free,
    and are no small part of it.

    weights: gives the bytes of all models' weights. memory_share: of the device's memory that is this process's; the other
    workers that share the device may not have taken theirs yet. Raises DeviceError when the device does not answer.
    """
    if residency != "auto":
        return residency == "in_turn"
    held, free = weights(), free_bytes(device, memory_share)
    return needed_bytes(held, device.type) > free and held > SMALL_SHARE * free


def needed_bytes(weights: int, device_type: str) -> int:
    """Memory of a device that a stage takes, by estimate: its models' weights and a workspace."""
    return weights + GPU_WORKSPACE_BYTES if device_type == "cuda" else 2 * weights + HOST_BASE_BYTES


def weight_bytes(build: Callable[[], nn.Module]) -> int:
    """Bytes of a model's weights, which are not allocated: `build` is called on the meta device."""
    with torch.device("meta"):
        model = build()
    return sum(tensor.nbytes for tensor in chain(model.parameters(), model.buffers()))


def free_bytes(device: torch.device, memory_share: float = 1.0) -> int:
    """Memory that is free on the device, or on the machine for the CPU; no more than a share of all that there is."""
    if device.type != "cuda":
        return min(free_memory(), int(memory_share * total_memory()))
    try:
        free, total = torch.cuda.mem_get_info(device)
    except RuntimeError as error:
        raise DeviceError(
            f"{device} does not answer ({first_line(error)}); choose another GPU (CUDA_VISIBLE_DEVICES)"
        ) from error
    return min(free, int(memory_share * total))
