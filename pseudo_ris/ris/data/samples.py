"""Samples of masks with expressions, in the form that a RIS model takes; by default as ETRIS's and CRIS's loaders give them.

targets = targets_of_csv(Path("out/pairs/distinctive_captions_cc3m.csv"), Path("photos"), Path("out/masks"))
loader = DataLoader(PairsDataset(targets), batch_size=16, shuffle=True, num_workers=4)
"""

from __future__ import annotations

from collections.abc import Sequence
from traceback import clear_frames
from typing import Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from pseudo_ris.captions.crops import CLIP_MEAN, CLIP_STD
from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.io.images import decode_image
from pseudo_ris.ris.data.targets import Target
from pseudo_ris.ris.models.base import SampleForm, Tokenizer
from pseudo_ris.ris.models.cris.tokenizer import ClipTokenizer
from pseudo_ris.ris.models.letterbox import frame_of

Sample = dict[str, torch.Tensor]
ETRIS_FORM = SampleForm(416, "letterbox", CLIP_MEAN, CLIP_STD)


class PairsDataset(Dataset[Sample]):
    """One sample a mask, of S = form.input_size, L = tokenizer.length.

    Both modes: "image" float32 [3, S, S], RGB, see frames; "index" int64 [], place among the targets.
    "train": "mask" float32 [S, S] in [0, 1], framed like the image; "tokens" int64 [L] and "attention" bool [L], one of the
    mask's expressions.
    "val": "mask" bool [H, W], as it is; "tokens" and "attention" [N, L], all its expressions; "inverse" float64 [2, 3], from
    pixels of the square to those of the mask. They differ in shape from sample to sample: load them with `batch_size=None`.

    Which expression is drawn depends on seed, epoch and index only, not on workers or order. A sample that cannot be made
    raises BadInputError.

    Args:
        targets: see ris.targets.
        seed: not negative.
        form: what the model reads; by default images and sentences as ETRIS and CRIS read them.
        tokenizer: the model's; by default CLIP's.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        mode: Literal["train", "val"] = "train",
        seed: int = 0,
        form: SampleForm = ETRIS_FORM,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        if not targets:
            raise UserError("no mask has an expression to train on; lower the threshold or give another set")
        self.targets = targets
        self.mode = mode
        self.seed = seed
        self.form = form
        self.tokenizer = tokenizer or ClipTokenizer()
        self._mean, self._std = (np.array(channels, np.float32) for channels in (form.mean, form.std))
        # Shared, so that workers that live on from epoch to epoch see it change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Draws anew from here on; to be called before the loader is iterated over."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Sample:
        target = self.targets[index]
        pixels, mask = decode_image(target.read_image(), target.name), target.read_mask()
        if pixels.shape[:2] != mask.shape:
            raise BadInputError(f"{target.name}: {_size(mask)} pixels, its image has {_size(pixels)}; make it from this image")
        frame = frame_of(self.form.frame, *mask.shape, self.form.input_size)
        image = torch.from_numpy(frame.image(pixels, self._mean, self._std))
        sample = {"image": image, "index": torch.tensor(index)}
        if self.mode == "train":
            tokens, attention = self.tokenizer([self._drawn(index, target.sentences)])
            framed = torch.from_numpy(frame.mask(mask))
            return {**sample, "mask": framed, "tokens": tokens[0], "attention": attention[0]}
        tokens, attention = self.tokenizer(list(target.sentences))
        inverse = torch.from_numpy(frame.inverse)
        return {**sample, "mask": torch.from_numpy(mask), "tokens": tokens, "attention": attention, "inverse": inverse}

    def _drawn(self, index: int, sentences: Sequence[str]) -> str:
        random = np.random.default_rng((self.seed, int(self._epoch), index))
        return sentences[random.integers(len(sentences))]


def reason_of(error: BadInputError) -> str:
    """Why a sample cannot be made, in one line; the error of a loader's worker comes with the worker's traceback.

    Clears the frames of the error: torch raises it in a cycle with the loader, and a loader that the garbage collector finds
    cannot tell its workers to end, but waits 5 s for each and then kills it.
    """
    clear_frames(error.__traceback__)
    return str(error).splitlines()[-1].rpartition("BadInputError: ")[2]


def _size(pixels: np.ndarray) -> str:
    height, width = pixels.shape[:2]
    return f"{width}x{height}"
