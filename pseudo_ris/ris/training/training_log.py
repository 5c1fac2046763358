"""Logs of a training: `log.csv` and TensorBoard files."""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from typing_extensions import Self

from pseudo_ris.errors import UserError
from pseudo_ris.io.files import write_atomic, writing
from pseudo_ris.io.terminal import ProgressBar
from pseudo_ris.ris.evaluation.predictions import draw_prediction
from pseudo_ris.ris.evaluation.scores import Prediction, Results

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

COLUMNS = ("step", "loss", "learning_rate", "gradient_norm")


class TrainingLog:
    """Writes `<folder>/log.csv`, a line a step from 1 on, and `<folder>/tensorboard/`, under one progress bar.

    What a killed run wrote of steps after the first `done` is dropped from both, since they are done again.
    Learning rates in log.csv are those of the parts that are new. Raises UserError when log.csv cannot be written.

    Args:
        steps: of the whole training.
        is_first: others than the first process write and show nothing.
    """

    def __init__(self, folder: Path, done: int, steps: int, is_first: bool) -> None:
        self.path = folder / "log.csv"
        self._writer = _tensorboard(folder / "tensorboard", done) if is_first else None
        self._bar = ProgressBar("training", steps, done=done, unit="steps", shown=is_first)
        self._shown: dict[str, str] = {}
        self._last = time.monotonic()
        if is_first:
            write_atomic(self.path, "".join(_lines(self.path, done)))

    def __enter__(self) -> Self:
        self._bar.__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        self._bar.__exit__()
        if self._writer:
            self._writer.close()

    def step(self, step: int, loss: float, rates: Mapping[float, float], norm: float, samples: int) -> None:
        """Notes a step, a number from 1 on.

        loss: mean over the processes. rates: factor on the learning rate -> learning rate of the groups that have it. norm: of
        the gradients, before they are clipped. samples: learnt in this step.
        """
        now = time.monotonic()
        speed, self._last = samples / (now - self._last), now
        self._show(1, loss=f"{loss:.3f}")
        if not self._writer:
            return
        with writing(self.path), self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerow((step, loss, max(rates.values()), norm))
        self._writer.add_scalar("train/loss", loss, step)
        self._writer.add_scalar("train/gradient_norm", norm, step)
        self._writer.add_scalar("train/samples_per_second", speed, step)
        for scale, rate in rates.items():
            self._writer.add_scalar(f"learning_rate/times_{scale:g}", rate, step)

    def validation(self, step: int, results: Results, shown: Sequence[Prediction]) -> None:
        """Notes oIoU and mIoU, at model size and at original size, and pictures of some predictions."""
        self._last = time.monotonic()
        self._show(0, oIoU=f"{results.model_size.oiou:.3f}")
        if not self._writer:
            return
        for size, scores in (("model_size", results.model_size), ("original_size", results.original)):
            self._writer.add_scalar(f"val/oIoU_{size}", scores.oiou, step)
            self._writer.add_scalar(f"val/mIoU_{size}", scores.miou, step)
        for number, prediction in enumerate(shown):
            picture = np.asarray(draw_prediction(prediction))
            self._writer.add_image(f"prediction/{number}", picture, step, dataformats="HWC")
        self._writer.flush()

    def _show(self, steps: int, **figures: str) -> None:
        """Counts `steps` and shows the latest figures."""
        self._shown |= figures
        self._bar.update(steps, ", ".join(f"{name} {figure}" for name, figure in self._shown.items()))


def _tensorboard(folder: Path, done: int) -> SummaryWriter:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError("tensorboard is not installed; run: pip install -c constraints.txt -e '.[train]'") from error
    return SummaryWriter(str(folder), purge_step=done + 1)


def _lines(path: Path, done: int) -> list[str]:
    """The head of log.csv and the lines of the first `done` steps."""
    head = ",".join(COLUMNS) + "\n"
    if not done or not path.is_file():
        return [head]
    with path.open(encoding="utf-8") as file:
        return [head, *list(file)[1 : done + 1]]
