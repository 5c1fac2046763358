"""After which steps a training writes last.pt and validates."""

from __future__ import annotations

import pytest

from pseudo_ris.ris.config import TrainConfig
from pseudo_ris.ris.training.rhythm import Rhythm


def when(rhythm: Rhythm) -> tuple[list[int], list[int]]:
    """Steps after which last.pt is written, and steps after which the weights are validated."""
    steps = range(1, rhythm.steps + 1)
    return [step for step in steps if rhythm.saves(step)], [step for step in steps if rhythm.validates(step)]


def test_every_so_many_steps_and_after_the_last():
    assert when(Rhythm(TrainConfig(validate_every=5), steps=12, epoch=3)) == ([5, 10, 12], [5, 10, 12])


def test_by_epochs_a_checkpoint_follows_each_and_a_validation_some():
    by_epochs = TrainConfig(validate_every=0, validate_epochs=4, validate_last=2)
    assert when(Rhythm(by_epochs, steps=30, epoch=3)) == ([*range(3, 31, 3)], [3, 15, 27, 30])
    assert when(Rhythm(by_epochs, steps=32, epoch=3))[1] == [3, 15, 27, 30, 32]
    assert when(Rhythm(TrainConfig(validate_every=0), steps=7, epoch=3)) == ([3, 6, 7], [3, 6, 7])


@pytest.mark.parametrize("epochs", [17, 50])
def test_the_release_of_maskris_validates_every_tenth_epoch_from_its_first_and_the_last_16(epochs):
    found = when(Rhythm(TrainConfig(validate_every=0, validate_epochs=10, validate_last=16), 8 * epochs, 8))[1]
    assert [step // 8 - 1 for step in found] == [epoch for epoch in range(epochs) if epoch % 10 == 0 or epoch >= epochs - 16]
