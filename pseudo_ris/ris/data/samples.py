"""Samples of masks with expressions, in the form that a RIS model takes; by default as ETRIS's and CRIS's loaders give them.

targets = targets_of_csv(Path("out/pairs/distinctive_captions_cc3m.csv"), Path("photos"), Path("out/masks"))
loader = DataLoader(PairsDataset(targets), batch_size=16, shuffle=True, num_workers=4)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from traceback import clear_frames
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from pseudo_ris.captions.crops import CLIP_MEAN, CLIP_STD
from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.io.images import decode_image
from pseudo_ris.ris.data.features import read_features
from pseudo_ris.ris.data.targets import Target, by_image
from pseudo_ris.ris.models.base import SampleForm, Tokenizer
from pseudo_ris.ris.models.cris.tokenizer import ClipTokenizer
from pseudo_ris.ris.models.letterbox import Frame, frame_of

Sample = dict[str, Any]
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
        _check_not_empty(targets)
        self.targets = targets
        self.mode = mode
        self.seed = seed
        self.form = form
        self.tokenizer = tokenizer or ClipTokenizer()
        self._epoch = _shared_epoch()

    def set_epoch(self, epoch: int) -> None:
        """Draws anew from here on; to be called before the loader is iterated over."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Sample:
        target = self.targets[index]
        pixels, (mask,) = image_and_masks([target])
        frame = frame_of(self.form.frame, *mask.shape, self.form.input_size)
        sample = {"image": framed_image(pixels, self.form), "index": torch.tensor(index)}
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


class GroupsDataset(Dataset[Sample]):
    """One sample an image, with K sentences of its masks: each mask in turn, in an order that is drawn.

    "image": as in PairsDataset; with `features` a tuple of these instead, float tensors. "mask": float32 [K, S, S], "tokens":
    int64 [K, L], "attention": bool [K, L]. "index": int64 [K], place among the targets of each.

    What is drawn depends on seed, epoch and index only. A sample that cannot be made raises BadInputError.

    Args:
        targets, seed, form, tokenizer: see PairsDataset.
        sentences: K.
        features: files of what the model's image tower says, in the order of `by_image`; see FeatureCache.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        seed: int,
        form: SampleForm,
        tokenizer: Tokenizer,
        sentences: int,
        features: Sequence[Path] = (),
    ) -> None:
        _check_not_empty(targets)
        self.targets, self.seed, self.form, self.tokenizer = targets, seed, form, tokenizer
        self.sentences, self.features = sentences, features
        self.groups = by_image(targets)
        self._epoch = _shared_epoch()

    def set_epoch(self, epoch: int) -> None:
        """See PairsDataset."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> Sample:
        random = np.random.default_rng((self.seed, int(self._epoch), index))
        group = random.permutation(self.groups[index])
        places = np.resize(group, self.sentences)
        shown = [self.targets[place] for place in group[: self.sentences]]
        if self.features:
            image, size = read_features(self.features[index])
            masks = [_mask_of(target, size) for target in shown]
        else:
            pixels, masks = image_and_masks(shown)
            image = framed_image(pixels, self.form)
        framed = [torch.from_numpy(self._frame(mask).mask(mask)) for mask in masks]
        texts = [self.targets[place].sentences for place in places]
        tokens, attention = self.tokenizer([each[random.integers(len(each))] for each in texts])
        masks = torch.stack([framed[number % len(framed)] for number in range(self.sentences)])
        return {"image": image, "mask": masks, "tokens": tokens, "attention": attention, "index": torch.from_numpy(places)}

    def _frame(self, mask: np.ndarray) -> Frame:
        return frame_of(self.form.frame, *mask.shape, self.form.input_size)


@dataclass(frozen=True)
class ImageSample:
    """An image with all masks and sentences of the targets that show it.

    places: of these targets. image: float32 [3, S, S], see PairsDataset. inverse: float64 [2, 3], from pixels of the square to
    those of the image. masks: bool [H, W], one a target. tokens: int64 [N, L] and attention: bool [N, L], one a target.
    """

    places: list[int]
    image: torch.Tensor
    inverse: torch.Tensor
    masks: list[torch.Tensor]
    tokens: list[torch.Tensor]
    attention: list[torch.Tensor]


class ImagesDataset(Dataset[ImageSample]):
    """One sample an image, in the order of `by_image`; load it with `batch_size=None`.

    A sample that cannot be made raises BadInputError that names its target.

    Args:
        targets, form, tokenizer: see PairsDataset.
    """

    def __init__(self, targets: Sequence[Target], form: SampleForm, tokenizer: Tokenizer) -> None:
        self.targets, self.form, self.tokenizer = targets, form, tokenizer
        self.groups = by_image(targets)

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> ImageSample:
        targets = [self.targets[place] for place in self.groups[index]]
        pixels, masks = image_and_masks(targets)
        frame = frame_of(self.form.frame, *pixels.shape[:2], self.form.input_size)
        tokens, attention = zip(*(self.tokenizer(list(target.sentences)) for target in targets), strict=True)
        inverse = torch.from_numpy(frame.inverse)
        masks = [torch.from_numpy(mask) for mask in masks]
        return ImageSample(self.groups[index], framed_image(pixels, self.form), inverse, masks, list(tokens), list(attention))


def framed_image(pixels: np.ndarray, form: SampleForm) -> torch.Tensor:
    """RGB uint8 [H, W, 3] -> float32 [3, S, S], normalised."""
    frame = frame_of(form.frame, *pixels.shape[:2], form.input_size)
    return torch.from_numpy(frame.image(pixels, np.array(form.mean, np.float32), np.array(form.std, np.float32)))


def image_and_masks(targets: Sequence[Target]) -> tuple[np.ndarray, list[np.ndarray]]:
    """The image that the targets share, uint8 [H, W, 3], and their masks, bool [H, W]. Raises BadInputError."""
    first = targets[0]
    with _naming(first):
        pixels = decode_image(first.read_image(), first.name)
    return pixels, [_mask_of(target, pixels.shape[:2]) for target in targets]


def _mask_of(target: Target, size: tuple[int, ...]) -> np.ndarray:
    """Its mask, bool [H, W]. size: of its image, height and width. Raises BadInputError."""
    with _naming(target):
        mask = target.read_mask()
        if mask.shape != size:
            raise BadInputError(f"{_size(mask.shape)} pixels, its image has {_size(size)}; make it from this image")
        return mask


@contextmanager
def _naming(target: Target) -> Iterator[None]:
    """Has a BadInputError name the target, unless it does."""
    try:
        yield
    except BadInputError as error:
        if str(error).startswith(target.name):
            raise
        raise BadInputError(f"{target.name}: {error}") from error


def _check_not_empty(targets: Sequence[Target]) -> None:
    if not targets:
        raise UserError("no mask has an expression to train on; lower the threshold or give another set")


def _shared_epoch() -> torch.Tensor:
    """Shared, so that workers that live on from epoch to epoch see it change."""
    return torch.zeros((), dtype=torch.int64).share_memory_()


def reason_of(error: BadInputError) -> str:
    """Why a sample cannot be made, in one line; the error of a loader's worker comes with the worker's traceback.

    Clears the frames of the error: torch raises it in a cycle with the loader, and a loader that the garbage collector finds
    cannot tell its workers to end, but waits 5 s for each and then kills it.
    """
    clear_frames(error.__traceback__)
    return str(error).splitlines()[-1].rpartition("BadInputError: ")[2]


def _size(shape: tuple[int, ...]) -> str:
    height, width = shape
    return f"{width}x{height}"
