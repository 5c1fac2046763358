"""One drawn image under many settings of both stages, judged against its ground truth. Settings share what they agree on."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Literal, TypeVar

import numpy as np

from pseudo_ris.captions.distinctive import write_candidates
from pseudo_ris.config import CaptionGenerationConfig, CutlerConfig, MaskGenerationConfig, SamConfig
from pseudo_ris.distinctiveness.nouns import RuleNounFinder
from pseudo_ris.distinctiveness.score import score_candidates
from pseudo_ris.lab.evaluate import PAPER_THRESHOLD, RECOMMENDED_THRESHOLD
from pseudo_ris.masks.matching import SAME_OBJECT_IOU
from pseudo_ris.masks.pipeline import draw_masks
from pseudo_ris.models.clip.scorer import ClipScorer
from pseudo_ris.models.coca.captioner import CocaCaptioner
from pseudo_ris.models.cutler.detector import Cutler, Instances
from pseudo_ris.models.sam.segmenter import AutomaticSam, SamMasks
from pseudo_ris.pairs.selection import kept_candidates
from pseudo_ris.records import MaskCaptions
from pseudo_ris.world.judge import CaptionCounts, Counts, MaskCounts, iou_matrix, judge_captions, judge_masks, owners_of
from pseudo_ris.world.scenes import SIZE, Scene, draw_scene

MOSAIC_SIDE = 3

Made = TypeVar("Made")


@dataclass(frozen=True)
class Settings:
    """Settings of both stages."""

    stage1: MaskGenerationConfig = field(default_factory=MaskGenerationConfig)
    stage2: CaptionGenerationConfig = field(default_factory=CaptionGenerationConfig)

    def switched(self, values: Mapping[str, Any]) -> Settings:
        """These settings with some replaced. values: "part.name" -> value. Raises UserError when a value does not fit."""
        stages = {"stage1": self.stage1, "stage2": self.stage2}
        for setting, value in values.items():
            part, name = setting.split(".")
            for stage, config in stages.items():
                if hasattr(config, part):
                    stages[stage] = replace(config, **{part: replace(getattr(config, part), **{name: value})})
        return Settings(**stages)


@dataclass(frozen=True)
class FilterCounts(Counts):
    """What one threshold of the filter leaves.

    kept: the expressions that pass. masks: all; training: those that keep an expression. drawn_distinctive: when a trainer
    draws one of each mask's kept expressions, all equally likely, how many of the drawn are distinctive (expected number).
    """

    kept: CaptionCounts = field(default_factory=CaptionCounts)
    masks: int = 0
    training: int = 0
    drawn_distinctive: float = 0.0


@dataclass(frozen=True)
class Figures(Counts):
    """What settings make of an image.

    twice: masks that show what another of the image's masks shows. papers, recommended: by the paper's and our DoC threshold.
    """

    masks: MaskCounts = field(default_factory=MaskCounts)
    twice: int = 0
    candidates: CaptionCounts = field(default_factory=CaptionCounts)
    papers: FilterCounts = field(default_factory=FilterCounts)
    recommended: FilterCounts = field(default_factory=FilterCounts)


def draw_mosaic(split: str, seed: int, index: int) -> Scene:
    """Nine scenes in a square as one crowded scene, 768 x 768. Raises ValueError as draw_scene does.

    Its expressions can be judged as long as they name no position.
    """
    side = MOSAIC_SIDE * SIZE
    image, label_map = np.zeros((side, side, 3), np.uint8), np.zeros((side, side), np.uint8)
    objects = []
    for cell in range(MOSAIC_SIDE**2):
        scene = draw_scene(split, seed, MOSAIC_SIDE**2 * index + cell)
        top, left = (SIZE * place for place in divmod(cell, MOSAIC_SIDE))
        area = slice(top, top + SIZE), slice(left, left + SIZE)
        image[area] = scene.image
        label_map[area] = np.where(scene.label_map > 0, scene.label_map + len(objects), 0)
        for obj in scene.objects:
            x0, y0, x1, y1 = obj.box
            objects.append(replace(obj, box=(x0 + left, y0 + top, x1 + left, y1 + top)))
    return Scene(image, label_map, tuple(objects))


class Workbench:
    """One image, and what has been made of it: a step runs once for the settings and masks it depends on."""

    def __init__(self, scene: Scene, image_id: str) -> None:
        self.scene = scene
        self.image_id = image_id
        self._made: dict[Hashable, Any] = {}

    def measure(self, settings: Settings, find_masks: bool) -> Figures:
        """Runs stage 2, and stage 1 if asked, and judges what they make."""
        masks = self._found_masks(settings) if find_masks else self.scene.masks
        captions = self._captions(masks, settings.stage2) if len(masks) else []
        owners = owners_of(self.scene, masks)
        texts = [[candidate.text for candidate in own.candidates] for own in captions]
        return Figures(
            judge_masks(self.scene, masks),
            shown_twice(masks),
            judge_captions(self.scene, owners, texts),
            *(
                judge_filter(self.scene, owners, captions, threshold, settings.stage2.scoring.fallback)
                for threshold in (PAPER_THRESHOLD, RECOMMENDED_THRESHOLD)
            ),
        )

    def _found_masks(self, settings: Settings) -> np.ndarray:
        detector, segmenter = _detector(settings.stage1.cutler), _segmenter(settings.stage1.sam)
        records = draw_masks(detector, segmenter, self.scene.image, settings.stage1.matching)
        drawn = [record.mask for record in records if not record.mask.all()]  # stage 2 skips a mask of the whole image
        return np.stack(drawn) if drawn else np.zeros((0, *self.scene.image.shape[:2]), bool)

    def _captions(self, masks: np.ndarray, config: CaptionGenerationConfig) -> list[MaskCaptions]:
        captioner, scorer, find_noun = _captioner(), _scorer(), RuleNounFinder()
        image, seg_ids = self.scene.image, list(range(len(masks)))
        candidates = self._once(
            (masks.tobytes(), config.decoding, config.crops),
            lambda: write_candidates(captioner, image, masks, seg_ids, self.image_id, config.decoding, config.crops),
        )
        return self._once(
            (masks.tobytes(), config.decoding, config.crops, config.scoring.score_floor),
            lambda: score_candidates(scorer, find_noun, image, masks, seg_ids, candidates, config.scoring, config.crops),
        )

    def _once(self, key: Hashable, make: Callable[[], Made]) -> Made:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


def shown_twice(masks: np.ndarray) -> int:
    """How many masks, bool [M, H, W], show the same (IoU >= SAME_OBJECT_IOU) as another one."""
    same = iou_matrix(masks, masks) >= SAME_OBJECT_IOU
    return int((same.sum(axis=1) > 1).sum())


def judge_filter(
    scene: Scene,
    owners: Sequence[int | None],
    captions: Sequence[MaskCaptions],
    threshold: float,
    fallback: Literal["drop", "unfiltered"],
) -> FilterCounts:
    """Judges what the filter leaves. owners: index of each mask's object, None when it matches none."""
    kept = [[record.text for record in kept_candidates(own, threshold, fallback)] for own in captions]
    alone = [judge_captions(scene, [owner], [texts]) for owner, texts in zip(owners, kept, strict=True) if texts]
    return FilterCounts(
        judge_captions(scene, owners, kept), len(kept), len(alone), sum(of_mask.distinctive_share for of_mask in alone)
    )


class _Detector(Cutler):
    """Remembers its last image's answer, as several settings ask for it."""

    _last: tuple[np.ndarray, Instances] | None = None

    def detect(self, image: np.ndarray) -> Instances:
        if self._last is None or self._last[0] is not image:
            self._last = image, super().detect(image)
        return self._last[1]


class _Segmenter(AutomaticSam):
    """Remembers its last image's answer, as several settings ask for it."""

    _last: tuple[np.ndarray, SamMasks] | None = None

    def generate(self, image: np.ndarray) -> SamMasks:
        if self._last is None or self._last[0] is not image:
            self._last = image, super().generate(image)
        return self._last[1]


@cache
def _detector(config: CutlerConfig) -> Cutler:
    return _Detector.from_config(config, "cpu")


@cache
def _segmenter(config: SamConfig) -> AutomaticSam:
    return _Segmenter.from_config(config, "cpu")


@cache
def _captioner() -> CocaCaptioner:
    return CocaCaptioner.from_config(Settings().stage2.coca, "cpu")


@cache
def _scorer() -> ClipScorer:
    return ClipScorer.from_config(Settings().stage2.clip, "cpu")
