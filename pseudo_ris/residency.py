"""Which models of a stage are in memory: each is loaded when it is first used, and makes room for the others where need be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import psutil
import torch
from torch import nn

from pseudo_ris.config import Residency

# What a stage needs beside the weights: SAM's prompts at once, CoCa's caches.
WORKSPACE_BYTES = 6 * 2**30

Adapter = TypeVar("Adapter")


class ModelRoom:
    """The models of a stage on one device.

    Args:
        in_turn: at most one model is kept; using another drops it, and using it again loads it again.
    """

    def __init__(self, device: torch.device, in_turn: bool) -> None:
        self.device = device
        self.in_turn = in_turn
        self._models: list[_Lazy] = []

    def model(self, load: Callable[[], Adapter]) -> Adapter:
        """Stands for the adapter that `load` makes; the first use of any attribute loads it."""
        lazy = _Lazy(self, load)
        self._models.append(lazy)
        return cast(Adapter, lazy)

    def make_room(self, for_model: _Lazy) -> None:
        """Drops the other models when only one may be kept."""
        if self.in_turn:
            for model in self._models:
                if model is not for_model:
                    vars(model)["_adapter"] = None
            if self.device.type == "cuda":
                torch.cuda.empty_cache()


class _Lazy:
    """An adapter that is loaded at the first look at it."""

    def __init__(self, room: ModelRoom, load: Callable[[], Any]) -> None:
        self._room, self._load, self._adapter = room, load, None

    def __getattr__(self, name: str) -> Any:
        if self._adapter is None:
            self._room.make_room(self)
            self._adapter = self._load()
        return getattr(self._adapter, name)


def takes_turns(residency: Residency, device: torch.device, *builds: Callable[[], nn.Module]) -> bool:
    """Whether a stage's models are kept one at a time; "auto": when all of them and a workspace exceed the free memory.

    builds: make the models; called without memory, on the meta device.
    """
    if residency != "auto":
        return residency == "in_turn"
    return sum(weight_bytes(build) for build in builds) + WORKSPACE_BYTES > free_bytes(device)


def weight_bytes(build: Callable[[], nn.Module]) -> int:
    """Bytes of a model's fp32 weights, which are not allocated."""
    with torch.device("meta"):
        model = build()
    return 4 * sum(parameter.numel() for parameter in model.parameters())


def free_bytes(device: torch.device) -> int:
    """Memory that is free on the device, or on the machine for the CPU."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
