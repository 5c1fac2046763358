"""Models that are loaded when they are used, and take turns."""

from __future__ import annotations

import gc
import weakref
from functools import partial

import pytest
import torch
from torch import nn

from pseudo_ris.config import ClipConfig, CocaConfig, CutlerConfig, SamConfig
from pseudo_ris.errors import UserError
from pseudo_ris.models.clip.scorer import ClipScorer
from pseudo_ris.models.coca.captioner import CocaCaptioner
from pseudo_ris.models.cutler.detector import Cutler
from pseudo_ris.models.offload import (
    GPU_WORKSPACE_BYTES,
    HostWeights,
    ModelRoom,
    free_bytes,
    needed_bytes,
    takes_turns,
    weight_bytes,
)
from pseudo_ris.models.sam.segmenter import AutomaticSam

CPU = torch.device("cpu")


class Adapter:
    """Counts how often it was made."""

    made = 0

    def __init__(self) -> None:
        type(self).made += 1
        self.name = f"{type(self).__name__} {type(self).made}"
        self.model = nn.Linear(2, 2)


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


def test_on_a_gpu_models_come_back_without_being_loaded_again(kinds):
    """The device is only said to be a GPU: what is moved is on the CPU."""
    room = ModelRoom(torch.device("cuda"), in_turn=True)
    first, second = (room.model(kind) for kind in kinds)
    weight = first.model.weight
    before = weight.detach().clone()
    assert second.name == "Second 1"
    assert (weight.untyped_storage().nbytes(), second.model.weight.untyped_storage().nbytes()) == (0, 16)
    assert torch.equal(first.model.weight, before)
    assert first.model.weight is weight
    assert second._adapter.model.weight.untyped_storage().nbytes() == 0
    assert [kind.made for kind in kinds] == [1, 1]


def test_all_that_refers_to_weights_is_filled_again():
    model = nn.ModuleDict({"norm": nn.BatchNorm1d(3), "tied": nn.Linear(3, 3, bias=False), "other": nn.Linear(3, 3)})
    model["other"].weight = model["tied"].weight
    view, part = model["other"].weight.detach(), model["norm"].running_mean[1:]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    weights = HostWeights(model)
    weights.take_off()
    assert not any(tensor.untyped_storage().nbytes() for tensor in model.state_dict().values())
    with torch.inference_mode():
        weights.bring_back()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert model["other"].weight is model["tied"].weight
    assert torch.equal(view, state["other.weight"])
    assert torch.equal(part, state["norm.running_mean"][1:])


@pytest.mark.slow
def test_compiled_code_is_not_compiled_again():
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    model, x = nn.Linear(2, 2), torch.ones(1, 2)
    code = torch.compile(lambda module, x: module(x) + 1, backend=backend)
    weights = HostWeights(model)
    with torch.inference_mode():
        first = code(model, x)
        weights.take_off()
        weights.bring_back()
        assert torch.equal(code(model, x), first)
    assert len(compiled) == 1


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED")]
)
@pytest.mark.parametrize("in_turn", [False, True])
def test_weights_that_do_not_fit_end_the_run(error, in_turn):
    def load():
        raise error

    with pytest.raises(UserError, match=r"do not fit in the memory of cpu.*precision.*--gpus-per-worker") as caught:
        _ = ModelRoom(CPU, in_turn).model(load).model
    assert ("--residency in_turn" in str(caught.value)) == (not in_turn)


def test_other_errors_of_loading_stay_what_they_are():
    def load():
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        _ = ModelRoom(CPU, in_turn=False).model(load).model


def test_weights_are_counted_without_being_allocated():
    assert weight_bytes(lambda: nn.Linear(10**6, 10**6, bias=False)) == 4 * 10**12


@pytest.mark.parametrize(
    ("adapter", "config"),
    [(Cutler, CutlerConfig), (AutomaticSam, SamConfig), (CocaCaptioner, CocaConfig), (ClipScorer, ClipConfig)],
)
def test_the_count_is_what_the_adapter_holds(adapter, config):
    config = config(precision="bf16")
    model = adapter.from_config(config, CPU).model
    held = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    assert adapter.weight_bytes(config, CPU) == held


def test_the_count_follows_a_precision_that_depends_on_the_device():
    whole, half = (ClipScorer.weight_bytes(ClipConfig(precision=name), CPU) for name in ("fp32", "fp16"))
    released = ClipConfig(precision="fp16_on_cuda")
    assert [ClipScorer.weight_bytes(released, torch.device(kind)) for kind in ("cpu", "cuda")] == [whole, half]
    assert half < whole


def test_auto_takes_turns_when_the_need_exceeds_what_is_free(monkeypatch):
    monkeypatch.setattr("pseudo_ris.models.offload.free_memory", lambda: 8 << 30)
    monkeypatch.setattr("pseudo_ris.models.offload.total_memory", lambda: 16 << 30)
    turns = partial(takes_turns, "auto", CPU)
    assert [turns(lambda gib=gib: gib << 30) for gib in (3, 4)] == [False, True]
    assert turns(lambda: 3 << 30, 0.25), "a quarter of 16 GiB"
    assert not takes_turns("together", CPU, lambda: 1 << 40)
    assert takes_turns("in_turn", CPU, lambda: 0)
    assert not turns(lambda: 32 << 20, 1 / 32), "32 MiB of 512 MiB"
    assert turns(lambda: 33 << 20, 1 / 32)
    assert free_bytes(CPU) == 8 << 30
    assert free_bytes(CPU, 0.25) == 4 << 30


def test_on_a_gpu_what_is_free_and_a_share_of_all_bound_the_need(monkeypatch):
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (20 << 30, 24 << 30))
    assert [free_bytes(gpu, share) >> 30 for share in (1, 0.5)] == [20, 12]
    assert needed_bytes(1 << 30, "cuda") == (1 << 30) + GPU_WORKSPACE_BYTES

    def no_answer(device):
        raise torch.AcceleratorError("CUDA error: uncorrectable ECC error")

    monkeypatch.setattr("torch.cuda.mem_get_info", no_answer)
    with pytest.raises(UserError, match="cuda:0 does not answer"):
        free_bytes(gpu)
