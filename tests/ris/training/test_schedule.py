"""The optimiser's groups and the learning rate, against figures computed by hand."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_model import TinyModel

from pseudo_ris.errors import UserError
from pseudo_ris.ris.config import ScheduleConfig
from pseudo_ris.ris.training.schedule import build_optimizer, count_steps, factor_at, set_learning_rate


def test_towers_learn_more_slowly_and_only_marked_groups_decay():
    config = ScheduleConfig(learning_rate=0.5, tower_scale=0.1, weight_decay=0.02, warmup=0)
    optimizer = build_optimizer(TinyModel(), config)
    set_learning_rate(optimizer, config, 0, 10)
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.05, 0.5]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.02, 0.0, 0.0]


def test_the_fused_optimizer_makes_the_same_steps():
    found = []
    for fused in (False, True):
        torch.manual_seed(0)
        model = TinyModel()
        optimizer = build_optimizer(model, ScheduleConfig(learning_rate=0.1, warmup=0, fused=fused))
        set_learning_rate(optimizer, ScheduleConfig(learning_rate=0.1, warmup=0), 0, 10)
        for _ in range(3):
            sum((parameter**2).sum() + parameter.sum() for parameter in model.parameters()).backward()
            optimizer.step()
            optimizer.zero_grad()
        found.append([parameter.detach().clone() for parameter in model.parameters()])
    assert optimizer.param_groups[0]["fused"]
    for plain, fused in zip(*found, strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-6)


def test_warm_up_rises_in_a_line_from_a_thousandth():
    config = ScheduleConfig(warmup=4)
    assert [factor_at(step, 20, config) for step in range(5)] == pytest.approx([0.001, 0.25075, 0.5005, 0.75025, 1])


def test_polynomial_decay_falls_from_the_warm_up_to_zero():
    config = ScheduleConfig(warmup=4, decay="poly")
    assert factor_at(8, 12, config) == pytest.approx(0.5**0.9)
    assert factor_at(11, 12, config) == pytest.approx(0.125**0.9)
    assert factor_at(12, 12, config) == 0


def test_the_release_s_polynomial_counts_from_step_0_which_has_the_full_rate():
    config = ScheduleConfig(warmup=4, decay="poly_release")
    expected = [1, 0.25075, 0.5005, 0.75025, 1, (7 / 12) ** 0.9, 0.5**0.9]
    assert [factor_at(step, 12, config) for step in range(7)] == pytest.approx(expected)
    assert factor_at(12, 12, config) == 0


def test_step_decay_is_a_tenth_from_70_percent_of_the_steps_on():
    config = ScheduleConfig(warmup=2, decay="step")
    assert [factor_at(step, 10, config) for step in (2, 6, 7, 9)] == [1, 1, 0.1, 0.1]
    assert [factor_at(step, 50, config) for step in (34, 35)] == [1, 0.1]


def test_cosine_decay_is_half_a_wave():
    config = ScheduleConfig(warmup=4, decay="cosine")
    expected = [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2, 0]
    assert [factor_at(step, 12, config) for step in (4, 6, 8, 10, 12)] == pytest.approx(expected)


def test_steps_are_the_full_batches_of_all_epochs_unless_they_are_given():
    assert count_steps(35, ScheduleConfig(batch_size=16, epochs=3, warmup=0)) == 6
    assert count_steps(35, ScheduleConfig(batch_size=16, epochs=3, warmup=0, steps=100)) == 100


def test_less_than_a_batch_and_a_warm_up_without_an_end_are_refused():
    with pytest.raises(UserError, match="batch_size: 16, but there are 15 samples; lower it"):
        count_steps(15, ScheduleConfig(batch_size=16))
    with pytest.raises(UserError, match="warmup: 6 steps, but the training has 6; lower it"):
        count_steps(32, ScheduleConfig(batch_size=16, epochs=3, warmup=6))
