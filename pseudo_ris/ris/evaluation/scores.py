"""How well a RIS model finds what sentences mean: every sentence of every target, at model size and at original size.

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
from pseudo_ris.ris.data.samples import PairsDataset, Sample, reason_of
from pseudo_ris.ris.data.targets import Target
from pseudo_ris.ris.evaluation.metrics import Overlap, Scores
from pseudo_ris.ris.models.base import BACKGROUND, FOREGROUND, RisModel
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
        """Of at least one sentence, the same in any order. Raises UserError when there is none."""
        groups: dict[str, list[SentenceScore]] = defaultdict(list)
        for score in scores:
            for tag in score.tags:
                groups[tag].append(score)
        return cls(*_at_both_sizes(scores), {tag: cls(*_at_both_sizes(groups[tag]), {}) for tag in sorted(groups)})

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


@dataclass(frozen=True)
class _Query:
    """One sentence to predict.

    number, sentence: see Prediction. sample: the target's, see dataset. framed: its mask in the model's square, bool [S, S].
    """

    target: Target
    number: int
    sentence: int
    sample: Sample
    framed: np.ndarray

    def prediction(self, margin: torch.Tensor) -> Prediction:
        """margin: see margins."""
        truth = self.sample["mask"].numpy()
        mask = at_original_size(margin, self.sample["inverse"].numpy(), *truth.shape)
        return Prediction(self.target, self.number, self.sentence, mask, truth, Overlap.of(mask, truth))

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
    """Predicts every sentence of every target; scores in their order, none for no targets.

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
    scores = []
    queries = _queries(model, targets, workers)
    while batch := list(islice(queries, batch_size)):
        for query, margin in zip(batch, _margins_of(batch, model, precision, device), strict=True):
            prediction = query.prediction(margin)
            scores.append(query.score(margin, prediction.overlap))
            if predictions:
                predictions(prediction)
    model.train(was_training)
    return scores


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
        logits = model(images.to(device), tokens.to(device), attention.to(device))
        logits = model.upsampled(logits, images.shape[-1]).float().cpu()
    if not logits.isfinite().all():
        raise UserError(f"--precision {precision}: the model's output is not finite; give fp32, or another checkpoint")
    return logits[:, FOREGROUND] - logits[:, BACKGROUND]


def at_original_size(margin: torch.Tensor, inverse: np.ndarray, height: int, width: int) -> np.ndarray:
    """The mask, bool [height, width], that a model predicts in an image.

    margin: float32 [S, S], see margins. inverse: the frame's. The foreground's probability, carried back by bilinear
    interpolation, is over 1/2. (CRIS and ETRIS interpolate it bicubically and ask for 0.35.)
    """
    probability = torch.sigmoid(margin).numpy()
    carried = cv2.warpAffine(probability, inverse, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return carried > 0.5


def _margins_of(batch: Sequence[_Query], model: RisModel, precision: Precision, device: torch.device) -> torch.Tensor:
    images = torch.stack([query.sample["image"] for query in batch])
    tokens = torch.stack([query.sample["tokens"][query.sentence] for query in batch])
    attention = torch.stack([query.sample["attention"][query.sentence] for query in batch])
    return margins(model, images, tokens, attention, precision, device)


def _queries(model: RisModel, targets: Sequence[Target], workers: int) -> Iterator[_Query]:
    """The sentences of all targets in their order; each image is prepared once, when its first sentence is asked for."""
    for number, (target, sample) in enumerate(zip(targets, _samples(model, targets, workers), strict=True)):
        mask = sample["mask"].numpy()
        frame = frame_of(model.form.frame, *mask.shape, model.form.input_size)
        framed = frame.mask(mask) > 0.5
        for sentence in range(len(target.sentences)):
            yield _Query(target, number, sentence, sample, framed)


def _samples(model: RisModel, targets: Sequence[Target], workers: int) -> Iterator[Sample]:
    """PairsDataset's "val" samples of all targets in their order. Raises UserError for one that cannot be read."""
    if not targets:
        return
    loader = DataLoader(
        PairsDataset(targets, "val", form=model.form, tokenizer=model.tokenizer),
        batch_size=None,
        num_workers=workers,
        worker_init_fn=outlive_stop,
        generator=torch.Generator(),  # its own, so that torch's random state stays as it is
    )
    given = 0
    try:
        for sample in loader:
            yield sample
            given += 1
    except BadInputError as error:
        raise UserError(f"cannot evaluate {targets[given].name}: {reason_of(error)}") from error


def _at_both_sizes(scores: Sequence[SentenceScore]) -> tuple[Scores, Scores]:
    return Scores.of([score.model_size for score in scores]), Scores.of([score.original for score in scores])
