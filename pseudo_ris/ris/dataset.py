"""Training samples as ETRIS's and CRIS's loaders give them.

targets = targets_of_csv(Path("out/pairs/distinctive_captions_cc3m.csv"), Path("photos"), Path("out/masks"))
loader = DataLoader(PairsDataset(targets), batch_size=16, shuffle=True, num_workers=4)
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Literal

import numpy as np
import torch
from open_clip.tokenizer import SimpleTokenizer
from torch.utils.data import Dataset

from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.images import decode_image
from pseudo_ris.ris.letterbox import Letterbox
from pseudo_ris.ris.targets import Target

Sample = dict[str, torch.Tensor]


class PairsDataset(Dataset[Sample]):
    """One sample a mask, of S = input_size, L = word_length.

    Both modes: "image" float32 [3, S, S], RGB in the middle of a square, normalised by CLIP's mean and deviation (see
    Letterbox); "index" int64 [], place among the targets.
    "train": "mask" float32 [S, S] in [0, 1], warped like the image; "tokens" int64 [L], one of the mask's expressions.
    "val": "mask" bool [H, W], as it is; "tokens" int64 [N, L], all its expressions; "inverse" float64 [2, 3], from pixels of
    the square to those of the mask. They differ in shape from sample to sample: load them with `batch_size=None`.
    Tokens are CLIP's, with start and end; of an expression that is too long the last one is the end token; padded with 0.

    Which expression is drawn depends on seed, epoch and index only, not on workers or order. A sample that cannot be made
    raises BadInputError.

    Args:
        targets: see ris.targets.
        seed: not negative.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        mode: Literal["train", "val"] = "train",
        seed: int = 0,
        input_size: int = 416,
        word_length: int = 17,
    ) -> None:
        if not targets:
            raise UserError("no mask has an expression to train on; lower the threshold or give another set")
        self.targets = targets
        self.mode = mode
        self.seed = seed
        self.input_size = input_size
        self._tokenizer = _clip_tokenizer(word_length)
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
        letterbox = Letterbox.of(*mask.shape, self.input_size)
        sample = {"image": torch.from_numpy(letterbox.image(pixels)), "index": torch.tensor(index)}
        if self.mode == "train":
            tokens = self._tokenizer(self._drawn(index, target.sentences))[0]
            return {**sample, "mask": torch.from_numpy(letterbox.mask(mask)), "tokens": tokens}
        tokens = self._tokenizer(list(target.sentences))
        inverse = torch.from_numpy(letterbox.inverse)
        return {**sample, "mask": torch.from_numpy(mask), "tokens": tokens, "inverse": inverse}

    def _drawn(self, index: int, sentences: Sequence[str]) -> str:
        random = np.random.default_rng((self.seed, int(self._epoch), index))
        return sentences[random.integers(len(sentences))]


@cache
def _clip_tokenizer(word_length: int) -> SimpleTokenizer:
    """list of texts -> int64 [N, word_length]. Its vocabulary comes with open_clip; reading it takes a while."""
    return SimpleTokenizer(context_length=word_length)


def _size(pixels: np.ndarray) -> str:
    height, width = pixels.shape[:2]
    return f"{width}x{height}"
