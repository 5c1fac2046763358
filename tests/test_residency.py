"""Models that are loaded when they are used, and take turns."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

from pseudo_ris.residency import WORKSPACE_BYTES, ModelRoom, free_bytes, takes_turns, weight_bytes

CPU = torch.device("cpu")


class Adapter:
    """Counts how often it was made."""

    made = 0

    def __init__(self) -> None:
        type(self).made += 1
        self.name = f"{type(self).__name__} {type(self).made}"


@pytest.fixture
def kinds():
    return type("First", (Adapter,), {"made": 0}), type("Second", (Adapter,), {"made": 0})


def test_models_are_loaded_at_first_use_and_kept(kinds):
    room = ModelRoom(CPU, in_turn=False)
    first, second = (room.model(kind) for kind in kinds)
    assert [kind.made for kind in kinds] == [0, 0]
    assert (first.name, second.name, first.name) == ("First 1", "Second 1", "First 1")


def test_in_turn_only_the_last_used_is_in_memory(kinds):
    room = ModelRoom(CPU, in_turn=True)
    first, second = (room.model(kind) for kind in kinds)
    assert first.name == first.name == "First 1"
    alive = weakref.ref(first._adapter)
    assert second.name == "Second 1"
    gc.collect()
    assert alive() is None
    assert first.name == "First 2"


def test_weights_are_counted_without_being_allocated():
    assert weight_bytes(lambda: nn.Linear(10**6, 10**6, bias=False)) == 4 * 10**12


def test_auto_takes_turns_when_weights_and_workspace_exceed_what_is_free():
    small, huge = (lambda: nn.Linear(2, 2)), (lambda: nn.Linear(10**6, 10**6))
    assert takes_turns("auto", CPU, small, huge)
    assert takes_turns("auto", CPU, small) == (free_bytes(CPU) < WORKSPACE_BYTES + 24)
    assert not takes_turns("together", CPU, huge)
    assert takes_turns("in_turn", CPU, small)
