"""Order of the training samples, their division among processes, and their random seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.ris.config import TrainConfig
from pseudo_ris.ris.data.samples import GroupsDataset, PairsDataset, Sample, reason_of
from pseudo_ris.ris.data.targets import Target
from pseudo_ris.ris.models.base import RisModel
from pseudo_ris.ris.training.distributed import Processes
from pseudo_ris.runtime.stopping import outlive_stop

# What random numbers are drawn for, so that they are independent of those drawn for something else from the same seed.
ORDER, MASKING = 1, 2


def is_grouped(config: TrainConfig) -> bool:
    """Whether a sample is an image, and not a mask."""
    return config.schedule.sentences > 1 or bool(config.data.features)


class Batches:
    """The training batches, one a step. All depends on seed and step only, not on the number of processes or workers.

    A batch of `schedule.batch_size` samples is dealt out to the processes, which must divide it. The samples that do not fill
    an epoch's last batch are left out. With `schedule.sentences` above 1 a sample is an image with that many sentences.

    Args:
        targets: what is learnt, at least one batch of it.
        model: whose samples are made.
        features: see GroupsDataset.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        model: RisModel,
        config: TrainConfig,
        processes: Processes,
        features: Sequence[Path] = (),
    ) -> None:
        size, sentences = config.schedule.batch_size, config.schedule.sentences
        if size % processes.count:
            raise UserError(f"schedule.batch_size: {size} cannot be dealt out to {processes.count} processes; give a multiple")
        own, parts = size // processes.count, config.schedule.accumulate
        if own % parts:
            raise UserError(f"schedule.accumulate: {own} samples of a process cannot be computed in {parts} equal parts")
        self.seed = config.seed
        self.dataset: PairsDataset | GroupsDataset
        if is_grouped(config):
            self.dataset = GroupsDataset(targets, config.seed, model.form, model.tokenizer, sentences, features)
        else:
            self.dataset = PairsDataset(targets, "train", config.seed, model.form, model.tokenizer)
        self.order = EpochOrder(len(self.dataset), size, config.seed, processes)
        self.loader = DataLoader(
            self.dataset,
            batch_sampler=self.order,
            num_workers=config.workers,
            persistent_workers=config.workers > 0,
            worker_init_fn=outlive_stop,
            pin_memory=processes.device.type == "cuda",
            # Its own, so that starting an epoch leaves the random numbers of the model as they are.
            generator=torch.Generator(),
        )

    def __len__(self) -> int:
        """Steps of an epoch."""
        return self.order.batches

    def after(self, done: int) -> Iterator[Sample]:
        """This process's part of the batches that follow `done` steps, without end; see PairsDataset's "train" samples.

        Each sentence also has "seed", int64, for its masking. Where samples are images, their sentences follow one another, and
        "owner", int64 [N], is the image of each. Raises UserError that names a sample that cannot be made.
        """
        epoch, self.order.first = divmod(done, len(self))
        while True:
            self.order.epoch = epoch
            self.dataset.set_epoch(epoch)
            for batch in map(ungrouped, self._read()):
                seeds = [masking_seed(self.seed, epoch, index) for index in batch["index"].tolist()]
                yield {**batch, "seed": torch.tensor(seeds)}
            epoch, self.order.first = epoch + 1, 0

    def _read(self) -> Iterator[Sample]:
        try:
            yield from self.loader
        except BadInputError as error:
            raise UserError(
                f"a training sample cannot be made: {reason_of(error)}; fix it, then the same command goes on"
            ) from error


def ungrouped(batch: Sample) -> Sample:
    """Samples of M images with K sentences each -> N = M * K sentences with their "owner"; other samples stay as they are."""
    if batch["index"].ndim == 1:
        return batch
    images, sentences = batch["index"].shape
    flat = {name: batch[name].flatten(0, 1) for name in ("mask", "tokens", "attention", "index")}
    return {"image": batch["image"], **flat, "owner": torch.arange(images).repeat_interleave(sentences)}


class EpochOrder(Sampler[list[int]]):
    """A process's part of the batches of `epoch`, from the batch `first` on: indices of samples."""

    def __init__(self, samples: int, batch_size: int, seed: int, processes: Processes) -> None:
        self.samples, self.batch_size, self.seed, self.processes = samples, batch_size, seed, processes
        self.batches = samples // batch_size
        self.epoch = self.first = 0

    def __len__(self) -> int:
        return self.batches - self.first

    def __iter__(self) -> Iterator[list[int]]:
        order = _random(ORDER, self.seed, self.epoch).permutation(self.samples).tolist()
        for batch in range(self.first, self.batches):
            yield self.processes.share(order[batch * self.batch_size : (batch + 1) * self.batch_size])


def masking_seed(seed: int, epoch: int, index: int) -> int:
    """Seed of what is hidden of a sample in an epoch."""
    return int(_random(MASKING, seed, epoch, index).integers(2**63))


def _random(purpose: int, *entropy: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=(purpose,)))
