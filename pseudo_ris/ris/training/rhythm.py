"""Steps after which a training writes last.pt, and after which it validates."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pseudo_ris.ris.config import TrainConfig


@dataclass(frozen=True)
class Rhythm:
    """Checkpoints and validations of a training, by the settings `validate_...`; both also follow the last step.

    config: of the training. steps: of all of it. epoch: steps of one epoch.
    """

    config: TrainConfig
    steps: int
    epoch: int

    def saves(self, done: int) -> bool:
        """Whether last.pt is written when `done` steps are done."""
        return done == self.steps or done % (self.config.validate_every or self.epoch) == 0

    def validates(self, done: int) -> bool:
        """Whether the weights are validated when `done` steps are done; if so, last.pt is written, too."""
        if not self.saves(done):
            return False
        if self.config.validate_every or done == self.steps:
            return True
        epochs, epoch = math.ceil(self.steps / self.epoch), done // self.epoch
        return (epoch - 1) % self.config.validate_epochs == 0 or epoch > epochs - self.config.validate_last
