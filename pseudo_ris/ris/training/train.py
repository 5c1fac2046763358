"""Training a RIS model: from settings to best.pt, going on where an earlier run with the same settings stopped."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pseudo_ris.errors import UserError
from pseudo_ris.io.files import prepare_folder
from pseudo_ris.ris.config import TrainConfig
from pseudo_ris.ris.data.samples import Sample
from pseudo_ris.ris.data.splits import split_targets, training_targets
from pseudo_ris.ris.data.targets import Target, by_image
from pseudo_ris.ris.evaluation.scores import Prediction, Results, tally
from pseudo_ris.ris.models.base import RisModel
from pseudo_ris.ris.models.build import build_model
from pseudo_ris.ris.models.checkpoints import (
    BEST,
    LAST,
    Checkpoint,
    read_checkpoint,
    restored_model,
    write_checkpoint,
)
from pseudo_ris.ris.training.batches import Batches, is_grouped
from pseudo_ris.ris.training.distributed import Processes, joined
from pseudo_ris.ris.training.feature_cache import FeatureCache
from pseudo_ris.ris.training.learner import Learner, Outcome
from pseudo_ris.ris.training.rhythm import Rhythm
from pseudo_ris.ris.training.same_training import check_same_training, data_digest
from pseudo_ris.ris.training.schedule import count_steps
from pseudo_ris.ris.training.training_log import TrainingLog
from pseudo_ris.runtime.shares import ALL, working_in
from pseudo_ris.runtime.stopping import StoppedError, StopRequest, stop_request

SHOWN = 4


def train(config: TrainConfig) -> int:
    """Trains a model and leaves `best.pt`, `last.pt`, `log.csv` and `tensorboard/` in `config.output`; returns the exit code.

    That is 0, or 128 plus the number of the signal (Ctrl-C, SIGTERM) that stopped it: after the step under way, or at once
    while it loads, joins the other processes or validates. Either way, and after a kill, the same command goes on from last.pt
    with the losses that it would have had; when all is done it says so.
    Under torchrun this is to be called in each process; the first one's last.pt counts. Several have the losses of one that has
    all their samples, unless the model has dropout or drop path: what these drop is drawn in each process.

    Raises UserError when last.pt is of another training or damaged, or the loss is not finite; last.pt then stays as it is.
    """
    with stop_request() as stop:
        try:
            with stop.at_once():
                return _train(config, stop)
        except (StoppedError, RuntimeError) as error:
            # Where one process stops at once, the others' exchange with it fails.
            if not stop.signal:
                raise
            if os.environ.get("RANK", "0") == "0":
                reason = f" ({error})" if str(error) else ""
                print(f"stopped{reason}; the same command goes on from the last checkpoint", file=sys.stderr)
            return 128 + stop.signal


def _train(config: TrainConfig, stop: StopRequest) -> int:
    with ExitStack() as stack:
        processes = stack.enter_context(joined(config.device, config.allow_tf32))
        if processes.is_first:
            stack.enter_context(working_in(Path(config.output), ALL))
            prepare_folder(Path(config.output))
        training = begin(config, processes)
        with stop.deferred():
            return training.go_on(stop)


def begin(config: TrainConfig, processes: Processes) -> Training:
    """A training at the step of its last.pt, or at its start."""
    targets = training_targets(config.data, config.seed)
    validated = split_targets(config.data, config.data.val_split) if config.data.dataset and config.data.val_split else []
    steps = count_steps(len(by_image(targets)) if is_grouped(config) else len(targets), config.schedule)
    last = Path(config.output) / LAST
    # Not each process for itself: only the first one writes last.pt, perhaps to a disk of its own.
    saved = processes.from_first(lambda: read_checkpoint(last) if last.exists() else None)
    if saved is not None:
        check_same_training(saved, last, config, targets)
        model = restored_model(saved, config, saved["model"], last)
    else:
        model = build_model(config.model, config.seed)
    learner = Learner(model, config, steps, processes)
    batches = Batches(targets, model, config, processes, _features(targets, config, learner.model, processes))
    if saved is None:
        return Training(config, learner, batches, validated, steps)
    learner.restore(saved, last)
    judged = saved.get("judged", saved["step"])  # earlier versions validated first
    return Training(config, learner, batches, validated, steps, saved["step"], judged, saved["best"])


def _features(targets: Sequence[Target], config: TrainConfig, model: RisModel, processes: Processes) -> list[Path]:
    """Files of the image features that the settings want to be kept, else none."""
    if not config.data.features:
        return []
    if config.masking.image:
        raise UserError("data.features: masking.image hides other patches in every step; switch one of them off")
    return FeatureCache(Path(config.data.features), model).fill(targets, processes)


class Training:
    """A training under way.

    Args:
        validated: what the best checkpoint is chosen by; where it is empty, best.pt is the newest.
        steps: of the whole training.
        done: of these, what is behind it.
        judged: steps of the newest weights that best.pt was chosen among.
        best: step and figures of best.pt, see Results.named; None while there are none.
    """

    def __init__(
        self,
        config: TrainConfig,
        learner: Learner,
        batches: Batches,
        validated: Sequence[Target],
        steps: int,
        done: int = 0,
        judged: int = 0,
        best: dict[str, Any] | None = None,
    ) -> None:
        self.config, self.learner, self.batches, self.validated = config, learner, batches, validated
        self.steps, self.done, self.judged, self.best = steps, done, judged, best
        self.rhythm = Rhythm(config, steps, len(batches))
        self.processes = learner.processes
        self.folder = Path(config.output)

    def go_on(self, stop: StopRequest) -> int:
        """Does the steps and the validation that are left, unless it is stopped; returns the exit code, see `train`."""
        if self.done == self.judged == self.steps:
            self._say(f"all {self.steps} steps are done; give another --output to train anew")
            return self._finish()
        self._say(self._plan())
        with TrainingLog(self.folder, self.done, self.steps, self.processes.is_first) as log:
            self._judge(log, stop)  # what a stopped run saved and did not validate
            batches = self.batches.after(self.done)
            while self.done < self.steps:
                batch = self._next(batches, stop)
                stopped_by = self._step(batch, log, stop) if batch else stop.signal
                if stopped_by or self.rhythm.saves(self.done):
                    self._save()
                if stopped_by:
                    self._say(f"stopped after step {self.done} of {self.steps}; the same command goes on from there")
                    return 128 + stopped_by
                self._judge(log, stop)
        return self._finish()

    def _next(self, batches: Iterator[Sample], stop: StopRequest) -> Sample | None:
        """The next batch; None when a single-process training receives a stop signal while it waits."""
        if self.processes.count > 1:  # these agree on it, see _step
            return next(batches)
        with suppress(StoppedError), stop.at_once():
            return next(batches)
        return None

    def _step(self, batch: Sample, log: TrainingLog, stop: StopRequest) -> int:
        """One step; returns the stop signal that a process received, or 0."""
        own = self.learner.gradients(batch)
        loss, stopped_by = self._agree(own.loss, stop.signal)
        if not math.isfinite(loss) or self.learner.diverges(own):
            raise self._diverged(batch, own, loss)
        rates = self.learner.update(self.done)
        self.done += 1
        schedule = self.config.schedule
        log.step(self.done, loss, rates, own.norm, schedule.batch_size * schedule.sentences)
        return stopped_by

    def _agree(self, loss: float, signal: int) -> tuple[float, int]:
        """The mean loss of all processes, and the signal that any of them got, so that all stop after the same step."""
        values = torch.tensor([loss, float(signal)], device=self.processes.device)
        mean, signalled = self.processes.mean(values).tolist()
        return mean, max(self.processes.gather(signal)) if signalled else 0

    def _diverged(self, batch: Sample, own: Outcome, loss: float) -> UserError:
        """The error of a step without a finite loss or gradient; it names the samples that alone have no finite loss."""
        guilty = self.learner.not_finite(batch) if not math.isfinite(own.loss) else []
        everywhere = [index for each in self.processes.gather(guilty) for index in each]
        names = [f"{index} ({self.batches.dataset.targets[index].name})" for index in everywhere[:SHOWN]]
        samples = f"with sample {', '.join(names)}" if names else "with the batch as a whole"
        last = self.folder / LAST
        kept = f"{last} stays as it was" if last.exists() else "there is no checkpoint yet"
        return UserError(
            f"step {self.done + 1}: loss {loss}, gradient norm {own.norm}, {samples}; {kept}; lower "
            "--schedule.learning_rate, give --precision fp32 or fix the sample"
        )

    def _judge(self, log: TrainingLog, stop: StopRequest) -> None:
        """Validates weights that have not been when it is their turn; writes best.pt when they are the best so far.

        last.pt was written before this, so that stopping here loses no step, and is written again with the outcome.
        """
        if not self.validated or self.judged == self.done or not self.rhythm.validates(self.done):
            return
        if self._is_best(log, stop):
            self._write_best()
        self.judged = self.done
        self._save()

    def _is_best(self, log: TrainingLog, stop: StopRequest) -> bool:
        """Validates; whether the figures, which it notes, are the best so far."""
        shown: list[Prediction] = []
        with stop.at_once():
            results = self._evaluate(shown)
        log.validation(self.done, results, shown)
        if self.best and results.model_size.oiou <= self.best["model_size"]["oIoU"]:
            return False
        self.best = {"step": self.done, **results.named}
        return True

    def _evaluate(self, shown: list[Prediction]) -> Results:
        """Figures of all processes' predictions. shown: receives some of this process's."""
        images = self.processes.share(by_image(self.validated))  # each is encoded in one process
        scores = tally(
            self.learner.evaluated,
            [self.validated[place] for places in images for place in places],
            batch_size=max(1, self.config.schedule.batch_size // self.processes.count),
            workers=self.config.workers,
            precision=self.config.precision,
            device=self.processes.device,
            predictions=lambda prediction: shown.append(prediction) if len(shown) < SHOWN else None,
        )
        return Results.of([score for each in self.processes.gather(scores) for score in each])

    def _save(self) -> None:
        """Writes last.pt, and best.pt when there is nothing to choose it by."""
        if not self.validated:
            self._write_best()
            self.judged = self.done
        data = data_digest(self.batches.dataset.targets)
        self._write(LAST, {"data": data, "judged": self.judged, **self.learner.state()})

    def _write_best(self) -> None:
        self._write(BEST, {"model": self.learner.evaluated.state_dict()})

    def _write(self, name: str, state: Checkpoint) -> None:
        if self.processes.is_first:
            write_checkpoint(self.folder / name, {**self._described(), **state})

    def _described(self) -> Checkpoint:
        own = self.learner.model
        return {"config": asdict(self.config), "step": self.done, "best": self.best, "pieces": own.pieces}

    def _plan(self) -> str:
        """What is trained on what, in two lines."""
        model, schedule = self.config.model, self.config.schedule
        parameters = sum(each.numel() for each in self.learner.model.parameters())
        trained = sum(each.numel() for each in self.learner.model.parameters() if each.requires_grad)
        processes = f", {self.processes.count} processes" if self.processes.count > 1 else ""
        going_on = f", going on after step {self.done}" if self.done else ""
        return (
            f"model: {model.name} {model.size}, {parameters:,} parameters, {trained:,} trained, on {self.processes.device}"
            f"{processes}\ndata: {len(self.batches.dataset.targets)} masks, {len(self.validated)} to validate on; "
            f"{self.steps} steps of {schedule.batch_size}, {len(self.batches)} an epoch{going_on}"
        )

    def _finish(self) -> int:
        if self.best:
            scores = self.best["model_size"]
            figures = f"oIoU {scores['oIoU']:.3f}, mIoU {scores['mIoU']:.3f} on {self.config.data.val_split} at model size"
            self._say(f"best: {figures}, step {self.best['step']}")
        self._say(f"model: {self.folder / BEST}")
        return 0

    def _say(self, text: str) -> None:
        if self.processes.is_first:
            print(text)
