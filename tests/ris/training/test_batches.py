"""Which samples a step learns from: a function of seed and step, whatever the processes and workers."""

from __future__ import annotations

from functools import partial
from itertools import islice

import pytest
import torch
from tiny_model import TinyModel, tiny_targets

from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.ris.config import ScheduleConfig, TrainConfig
from pseudo_ris.ris.data.targets import Target
from pseudo_ris.ris.training.batches import Batches, masking_seed
from pseudo_ris.ris.training.distributed import Processes

CPU = torch.device("cpu")


def batches(targets: list[Target], rank: int = 0, count: int = 1, size: int = 4, **settings) -> Batches:
    config = TrainConfig(schedule=ScheduleConfig(batch_size=size), **{"workers": 0, **settings})
    return Batches(targets, TinyModel(), config, Processes(rank, count, CPU))


def seen(made: Batches, done: int = 0, steps: int = 5) -> list[list[tuple[int, int]]]:
    """Index and masking seed of each sample of each step."""
    taken = islice(made.after(done), steps)
    return [list(zip(batch["index"].tolist(), batch["seed"].tolist(), strict=True)) for batch in taken]


def test_an_epoch_has_each_sample_once_but_for_those_that_fill_no_batch():
    steps = seen(batches(tiny_targets(11)), steps=4)
    first, second = ([index for step in part for index, _ in step] for part in (steps[:2], steps[2:]))
    assert len(set(first)) == len(set(second)) == 8
    assert first != second


def test_masking_seeds_differ_from_sample_to_sample_and_epoch_to_epoch():
    assert len({masking_seed(0, epoch, index) for epoch in range(20) for index in range(50)}) == 1000
    assert masking_seed(0, 1, 2) != masking_seed(1, 1, 2)


def test_two_processes_share_the_batches_of_one():
    targets = tiny_targets(11)
    both = [seen(batches(targets, rank, 2)) for rank in (0, 1)]
    for whole, *parts in zip(seen(batches(targets)), *both, strict=True):
        assert all(len(part) == 2 for part in parts)
        assert sorted(whole) == sorted(parts[0] + parts[1])


def test_a_training_that_goes_on_has_the_batches_it_would_have_had():
    targets = tiny_targets(11)
    whole = seen(batches(targets), steps=7)
    for done in (1, 2, 5):
        assert seen(batches(targets), done, 7 - done) == whole[done:]


@pytest.mark.slow
def test_workers_make_the_same_batches_and_leave_torchs_random_state():
    targets = tiny_targets(11)
    before = torch.get_rng_state()
    assert seen(batches(targets, workers=2)) == seen(batches(targets))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_batch_that_the_processes_cannot_share_is_refused():
    with pytest.raises(UserError, match="batch_size: 4 cannot be dealt out to 3 processes"):
        batches(tiny_targets(11), 0, 3)


def fail() -> bytes:
    raise BadInputError("7.png: not an image")


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_sample_that_cannot_be_made_is_named_in_one_line(workers):
    targets = tiny_targets(4)
    targets[2] = Target(targets[2].name, partial(fail), targets[2].read_mask, targets[2].sentences)
    with pytest.raises(UserError, match=r"^a training sample cannot be made: 2\.png: 7\.png: not an image; ") as caught:
        seen(batches(targets, workers=workers))
    assert "\n" not in str(caught.value)
