"""Evaluates a RIS model on every sentence of every target, at model size and at original size.

results = Results.of(tally(model, targets, batch_size=16, precision="fp32", device=device))
results.model_size.oiou
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader

from pseudo_ris.config import Precision
from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.io.device import DTYPES
from pseudo_ris.ris.data.samples import ImageSample, ImagesDataset, image_and_masks, reason_of
from pseudo_ris.ris.data.targets import Target, by_image
from pseudo_ris.ris.evaluation.metrics import Overlap, Scores
from pseudo_ris.ris.models.base import BACKGROUND, FOREGROUND, ImageFeatures, RisModel
from pseudo_ris.ris.models.letterbox import frame_of
from pseudo_ris.runtime.stopping import outlive_stop


@dataclass(frozen=True)
class SentenceScore:
    """What one sentence's prediction shares with the truth.

    target: the target's name. sentence: place among its sentences. tags: groups that the sentence belongs to. model_size,
    original: the overlap in the model's square, and in the image as it is.
    """

    target: str
    sentence: int
    tags: tuple[str, ...]
    model_size: Overlap
    original: Overlap


@dataclass(frozen=True)
class Results:
    """Figures at the model's size, as MaskRIS's evaluator has them, and at the images' own; by_tag: those of each group."""

    model_size: Scores
    original: Scores
    by_tag: dict[str, Results]

    @classmethod
    def of(cls, scores: Sequence[SentenceScore]) -> Results:
        """Of at least one sentence, the same in any order; with gRefCOCO's figures where a sentence has no target.

        Raises UserError when there is none.
        """
        general = any(score.original.no_target for score in scores)
        groups: dict[str, list[SentenceScore]] = defaultdict(list)
        for score in scores:
            for tag in score.tags:
                groups[tag].append(score)
        by_tag = {tag: cls(*_at_both_sizes(groups[tag], general), {}) for tag in sorted(groups)}
        return cls(*_at_both_sizes(scores, general), by_tag)

    @property
    def named(self) -> dict[str, Any]:
        """As JSON: "model_size", "original" (see Scores.named) and, where there are groups, "by_tag"."""
        by_tag = {"by_tag": {tag: results.named for tag, results in self.by_tag.items()}} if self.by_tag else {}
        return {"model_size": self.model_size.named, "original": self.original.named, **by_tag}


@dataclass(frozen=True)
class Prediction:
    """One sentence's prediction at the image's own size.

    number: place of the target among those evaluated. sentence: place among its sentences. mask, truth: bool [H, W].
    overlap: of the two.
    """

    target: Target
    number: int
    sentence: int
    mask: np.ndarray
    truth: np.ndarray
    overlap: Overlap


@dataclass(frozen=True, eq=False)
class _Query:
    """One sentence to predict.

    number, sentence: see Prediction. image: its image, with those of the image's other sentences. tokens: int64 [L].
    attention: bool [L]. truth: bool [H, W]. framed: the same in the model's square, bool [S, S].
    """

    target: Target
    number: int
    sentence: int
    image: ImageSample
    tokens: torch.Tensor
    attention: torch.Tensor
    truth: np.ndarray
    framed: np.ndarray

    def prediction(self, margin: torch.Tensor) -> Prediction:
        """margin: see margins."""
        mask = at_original_size(margin, self.image.inverse.numpy(), *self.truth.shape)
        return Prediction(self.target, self.number, self.sentence, mask, self.truth, Overlap.of(mask, self.truth))

    def score(self, margin: torch.Tensor, original: Overlap) -> SentenceScore:
        """original: of the prediction at the image's own size."""
        tags = self.target.tags[self.sentence] if self.target.tags else ()
        return SentenceScore(self.target.name, self.sentence, tags, Overlap.of(margin.numpy() > 0, self.framed), original)


def tally(
    model: RisModel,
    targets: Sequence[Target],
    *,
    batch_size: int,
    precision: Precision,
    device: torch.device,
    workers: int = 0,
    predictions: Callable[[Prediction], None] | None = None,
) -> list[SentenceScore]:
    """Predicts every sentence of every target, image by image; scores in the order of the targets, none for no targets.

    The image's part of the model runs once an image, see RisModel.image_features.

    A pixel is the object's when its foreground logit is the greater one. At model size the truth is the mask in the model's
    frame, a pixel where most of it is the object's: for frame "stretch" the mask resized nearest, as in MaskRIS's evaluator.
    At original size: see at_original_size. Of images and masks, those of `batch_size` sentences are held at a time, and two
    that each worker prepares ahead.

    model: on `device`; it is evaluated in eval mode and left in the mode that it had. workers: processes that prepare images
    and masks, 0 prepares them in this one; the scores are the same. predictions: is called with each prediction as it is made.
    Raises UserError for a target that cannot be read (nothing is left out of the figures), and for
    logits that are not finite.
    """
    was_training = model.training
    model.eval()
    scores = {}
    queries = _queries(model, targets, workers)
    encoder = _ImageEncoder(model, precision, device)
    while batch := list(islice(queries, batch_size)):
        for query, margin in zip(batch, _margins_of(batch, encoder), strict=True):
            prediction = query.prediction(margin)
            scores[query.number, query.sentence] = query.score(margin, prediction.overlap)
            if predictions:
                predictions(prediction)
    model.train(was_training)
    return [scores[key] for key in sorted(scores)]


def tally_masks(
    segment: Callable[[np.ndarray, Sequence[str]], np.ndarray],
    targets: Sequence[Target],
    predictions: Callable[[Prediction], None] | None = None,
) -> list[SentenceScore]:
    """`tally` of a segmenter that is no RisModel and has no square of its own: figures at model size are the original ones.

    segment: an image, RGB uint8 [H, W, 3], and sentences -> their masks, bool [N, H, W]. Raises UserError as `tally`.
    """
    scores = {}
    for places in by_image(targets):
        try:
            image, truths = image_and_masks([targets[place] for place in places])
        except BadInputError as error:
            raise UserError(f"cannot evaluate {error}") from error
        asked = [(place, number) for place in places for number in range(len(targets[place].sentences))]
        found = segment(image, [targets[place].sentences[number] for place, number in asked])
        truth_of = dict(zip(places, truths, strict=True))
        for (place, number), mask in zip(asked, found, strict=True):
            target, overlap = targets[place], Overlap.of(mask, truth_of[place])
            tags = target.tags[number] if target.tags else ()
            scores[place, number] = SentenceScore(target.name, number, tags, overlap, overlap)
            if predictions:
                predictions(Prediction(target, place, number, mask, truth_of[place], overlap))
    return [scores[key] for key in sorted(scores)]


@torch.inference_mode()
def margins(
    model: RisModel,
    images: torch.Tensor,
    tokens: torch.Tensor,
    attention: torch.Tensor,
    precision: Precision,
    device: torch.device,
) -> torch.Tensor:
    """Foreground logits less background logits, float32 [B, S, S] on the CPU; see RisModel.forward for the inputs.

    Raises UserError when one is not finite.
    """
    with torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32"):
        features = model.image_features(images.to(device))
        return _margins(model, features, tokens, attention, None, images.shape[-1], precision)


def _margins(
    model: RisModel,
    features: ImageFeatures,
    tokens: torch.Tensor,
    attention: torch.Tensor,
    owners: torch.Tensor | None,
    side: int,
    precision: Precision,
) -> torch.Tensor:
    """See margins; side: of the images, pixels. For the rest see RisModel.from_features."""
    device = features[0].device
    logits = model.from_features(features, tokens.to(device), attention.to(device), owners)
    logits = model.upsampled(logits, side).float().cpu()
    if not logits.isfinite().all():
        raise UserError(f"--precision {precision}: the model's output is not finite; give fp32, or another checkpoint")
    return logits[:, FOREGROUND] - logits[:, BACKGROUND]


class _ImageEncoder:
    """The features of a batch's images; those of the last batch are kept, as an image's sentences may span two batches."""

    def __init__(self, model: RisModel, precision: Precision, device: torch.device) -> None:
        self.model, self.precision, self.device = model, precision, device
        self._kept: dict[int, ImageFeatures] = {}

    def features_of(self, images: dict[int, torch.Tensor]) -> ImageFeatures:
        """Features of images, float32 [3, S, S] by any key that stays an image's; in their order."""
        new = [key for key in images if key not in self._kept]
        kept = {key: self._kept[key] for key in images if key in self._kept}
        if new:
            made = self.model.image_features(torch.stack([images[key] for key in new]).to(self.device))
            kept |= {key: tuple(each[row : row + 1] for each in made) for row, key in enumerate(new)}
        self._kept = kept
        return tuple(torch.cat(parts) for parts in zip(*(kept[key] for key in images), strict=True))


def at_original_size(margin: torch.Tensor, inverse: np.ndarray, height: int, width: int) -> np.ndarray:
    """The mask, bool [height, width], that a model predicts in an image.

    margin: float32 [S, S], see margins. inverse: the frame's. The foreground's probability, carried back by bilinear
    interpolation, is over 1/2. (CRIS and ETRIS interpolate it bicubically and ask for 0.35.)
    """
    probability = torch.sigmoid(margin).numpy()
    carried = cv2.warpAffine(probability, inverse, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return carried > 0.5


@torch.inference_mode()
def _margins_of(batch: Sequence[_Query], encoder: _ImageEncoder) -> torch.Tensor:
    """See margins; the images of a batch are encoded once each."""
    images = {query.image.places[0]: query.image.image for query in batch}
    rows = {key: row for row, key in enumerate(images)}
    owners = torch.tensor([rows[query.image.places[0]] for query in batch], device=encoder.device)
    tokens, attention = torch.stack([query.tokens for query in batch]), torch.stack([query.attention for query in batch])
    precision, device = encoder.precision, encoder.device
    with torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32"):
        features = encoder.features_of(images)
        side = batch[0].image.image.shape[-1]
        return _margins(encoder.model, features, tokens, attention, owners, side, precision)


def _queries(model: RisModel, targets: Sequence[Target], workers: int) -> Iterator[_Query]:
    """The sentences of all targets, image by image; each image is prepared once, when its first sentence is read."""
    for image in _images(model, targets, workers):
        for place, truth, tokens, attention in zip(image.places, image.masks, image.tokens, image.attention, strict=True):
            mask = truth.numpy()
            framed = frame_of(model.form.frame, *mask.shape, model.form.input_size).mask(mask) > 0.5
            for sentence in range(len(tokens)):
                yield _Query(targets[place], place, sentence, image, tokens[sentence], attention[sentence], mask, framed)


def _images(model: RisModel, targets: Sequence[Target], workers: int) -> Iterator[ImageSample]:
    """The images of all targets. Raises UserError for a target that cannot be read."""
    if not targets:
        return
    loader = DataLoader(
        ImagesDataset(targets, model.form, model.tokenizer),
        batch_size=None,
        num_workers=workers,
        worker_init_fn=outlive_stop,
        generator=torch.Generator(),  # its own, so that torch's random state stays as it is
    )
    try:
        yield from loader
    except BadInputError as error:
        raise UserError(f"cannot evaluate {reason_of(error)}") from error


def _at_both_sizes(scores: Sequence[SentenceScore], general: bool) -> tuple[Scores, Scores]:
    model_size, original = [score.model_size for score in scores], [score.original for score in scores]
    return Scores.of(model_size, general), Scores.of(original, general)
