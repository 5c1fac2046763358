"""Referring segmentation without training: the models of stages 1 and 2 find masks and choose one for each sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch

from pseudo_ris.captions.crops import OBJECT_VIEWS, cut_crops
from pseudo_ris.captions.listener import log_likelihoods
from pseudo_ris.ris.config import DataConfig, EvaluateConfig
from pseudo_ris.ris.data.targets import Target
from pseudo_ris.ris.evaluation.scores import Prediction, SentenceScore, tally_masks
from pseudo_ris.ris.evaluation.split_results import evaluate_splits
from pseudo_ris.stages.pipeline import Pipeline


class ZeroShot:
    """Stage 1's masks, of which CLIP or CoCa chooses one.

    Args:
        pipeline: whose models are used.
        judge: "clip" takes the mask whose crops are most similar to the sentence (sum of both cosines), "listener" the one
            under whose crops CoCa gives it the largest likelihood (product of both).
    """

    def __init__(self, pipeline: Pipeline, judge: Literal["clip", "listener"] = "clip") -> None:
        self.pipeline, self.judge = pipeline, judge

    def segment(self, image: np.ndarray, sentences: Sequence[str]) -> np.ndarray:
        """The mask of each sentence, bool [N, H, W], of an image, RGB uint8 [H, W, 3]; empty where no object is found."""
        masks = np.array([record.mask for record in self.pipeline.find_masks(image)]).reshape(-1, *image.shape[:2])
        if not len(masks):
            return np.zeros((len(sentences), *image.shape[:2]), bool)
        return masks[self.scores(image, masks, sentences).argmax(1).numpy()]

    def scores(self, image: np.ndarray, masks: np.ndarray, sentences: Sequence[str]) -> torch.Tensor:
        """How well each sentence fits each mask, float [N, M] on the CPU. masks: bool [M, H, W], M > 0."""
        of_crops = self._similarities if self.judge == "clip" else self._likelihoods
        return sum(of_crops(image, masks, crops, sentences) for crops in OBJECT_VIEWS)

    def _similarities(self, image: np.ndarray, masks: np.ndarray, crop_set: str, sentences: Sequence[str]) -> torch.Tensor:
        scorer, config = self.pipeline.scorer, self.pipeline.caption_settings.crops
        crops = cut_crops(image, masks, crop_set, scorer.image_size, config)
        return (scorer.embed_texts(list(sentences)) @ scorer.embed_images(crops).T).cpu()

    def _likelihoods(self, image: np.ndarray, masks: np.ndarray, crop_set: str, sentences: Sequence[str]) -> torch.Tensor:
        captioner, config = self.pipeline.captioner, self.pipeline.caption_settings.crops
        images = captioner.encode(cut_crops(image, masks, crop_set, captioner.image_size, config))
        return log_likelihoods(captioner, images, sentences)


def evaluate_zero_shot(config: EvaluateConfig) -> dict[str, Any]:
    """As evaluate_checkpoint, of a model that needs no training; "model" in place of "checkpoint". Raises UserError."""
    judge = "clip" if config.model == "zero-shot" else "listener"
    segmenter = ZeroShot(Pipeline.from_preset(config.preset, device=config.device), judge)

    def scores(targets: Sequence[Target], note: Callable[[Prediction], None]) -> list[SentenceScore]:
        return tally_masks(segmenter.segment, targets, note)

    name = f"{config.model}, models of {config.preset}"
    return {"model": config.model, **evaluate_splits(name, scores, config, DataConfig())}
