"""Runs both stages on one drawn scene with different settings, and computes each step once per distinct input."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from types import SimpleNamespace
from typing import Any, Literal, TypeVar

import numpy as np
import torch

from pseudo_ris.captions.distinctive import write_candidates
from pseudo_ris.config import CaptionGenerationConfig, MaskGenerationConfig, ScoringConfig
from pseudo_ris.distinctiveness.nouns import NounFinder, make_noun_finder
from pseudo_ris.distinctiveness.places import without_places
from pseudo_ris.distinctiveness.score import score_candidates
from pseudo_ris.masks.matching import SAME_OBJECT_IOU
from pseudo_ris.masks.pipeline import draw_masks
from pseudo_ris.models.clip.scorer import ClipScorer
from pseudo_ris.models.coca.captioner import CocaCaptioner
from pseudo_ris.models.cutler.detector import Cutler
from pseudo_ris.models.sam.segmenter import AutomaticSam
from pseudo_ris.pairs.selection import kept_candidates
from pseudo_ris.records import Candidate, MaskCaptions
from pseudo_ris.world.judge import CaptionCounts, Counts, MaskCounts, iou_matrix, judge_captions, judge_masks, owners_of
from pseudo_ris.world.scenes import SIZE, Scene, draw_scene

RECOMMENDED_THRESHOLD = ScoringConfig().threshold
PAPER_THRESHOLD = 1.0
MOSAIC_SIDE = 3
ONE_THREAD = partial(torch.set_num_threads, 1)
"""For map_in_processes: with one thread per process, results do not depend on the number of processes."""

Made = TypeVar("Made")


@dataclass(frozen=True)
class Settings:
    """Settings of both stages."""

    stage1: MaskGenerationConfig = field(default_factory=MaskGenerationConfig)
    stage2: CaptionGenerationConfig = field(default_factory=CaptionGenerationConfig)

    def switched(self, values: Mapping[str, Any]) -> Settings:
        """Returns a copy with some values replaced. values: "part.name" -> value. Raises UserError for an invalid value."""
        changes: dict[str, dict[str, Any]] = {}
        for setting, value in values.items():
            part, name = setting.split(".")
            changes.setdefault(part, {})[name] = value
        stages = {"stage1": self.stage1, "stage2": self.stage2}
        for stage, config in stages.items():
            own = {part: change for part, change in changes.items() if hasattr(config, part)}
            stages[stage] = replace(config, **{part: replace(getattr(config, part), **change) for part, change in own.items()})
        return Settings(**stages)

    def load_models(self) -> None:
        """Loads the four models into the cache. Raises UserError when weights are missing or do not fit."""
        for kind, config in (
            (Cutler, self.stage1.cutler),
            (AutomaticSam, self.stage1.sam),
            (CocaCaptioner, self.stage2.coca),
            (ClipScorer, self.stage2.clip),
        ):
            cached_model(kind, config)


@cache
def cached_model(kind: type[Made], config: Any) -> Made:
    """Returns a model on the CPU; each process loads it once."""
    return kind.from_config(config, "cpu")


@dataclass(frozen=True)
class FilterCounts(Counts):
    """Counts for one DoC threshold.

    kept: the expressions that pass. masks: all masks. training: masks that keep an expression. drawn_distinctive: expected
    number of distinctive expressions when a trainer draws one kept expression of each mask uniformly.
    """

    kept: CaptionCounts = field(default_factory=CaptionCounts)
    masks: int = 0
    training: int = 0
    drawn_distinctive: float = 0.0


@dataclass(frozen=True)
class Figures(Counts):
    """Counts for one image and one choice of settings.

    twice: masks that show the same as another mask. papers, recommended: at the paper's and our DoC threshold.
    """

    masks: MaskCounts = field(default_factory=MaskCounts)
    twice: int = 0
    candidates: CaptionCounts = field(default_factory=CaptionCounts)
    papers: FilterCounts = field(default_factory=FilterCounts)
    recommended: FilterCounts = field(default_factory=FilterCounts)


def draw_mosaic(split: str, seed: int, index: int) -> Scene:
    """Draws nine scenes side by side as one crowded scene of 768 x 768 pixels. Raises ValueError (see draw_scene).

    Expressions can be judged as long as they name no position.
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
    """One scene and the intermediate results of both stages, shared by settings that agree on them.

    Args:
        image_id: seeds the sampled captions.
        find_noun: finds the head nouns of captions.
    """

    def __init__(self, scene: Scene, image_id: str, find_noun: NounFinder) -> None:
        self.scene = scene
        self.image_id = image_id
        self._find_noun = find_noun
        self._made: dict[Hashable, Any] = {}

    @classmethod
    def of_scene(cls, scene: Scene, split: str, seed: int, index: int) -> Workbench:
        """For scene `index` of a split and seed, which also name the image; nouns are found by the default settings."""
        return cls(scene, f"{split}_{seed}_{index}", make_noun_finder(ScoringConfig()))

    def measure(self, settings: Settings, find_masks: bool) -> Figures:
        """Runs stage 2, on stage 1's masks if `find_masks` and otherwise on the true masks, and judges the results."""
        masks = self.found_masks(settings.stage1) if find_masks else self.scene.masks
        captions = without_places(self.captions(masks, settings.stage2))
        owners = owners_of(self.scene, masks)
        texts = [[candidate.text for candidate in own.candidates] for own in captions]
        papers, recommended = (
            judge_filter(self.scene, owners, captions, threshold, settings.stage2.scoring.fallback)
            for threshold in (PAPER_THRESHOLD, RECOMMENDED_THRESHOLD)
        )
        return Figures(
            judge_masks(self.scene, masks), shown_twice(masks), judge_captions(self.scene, owners, texts), papers, recommended
        )

    def found_masks(self, config: MaskGenerationConfig) -> np.ndarray:
        """Returns the masks of stage 1, bool [M, H, W], without masks of the whole image, which stage 2 skips."""

        def detect(image: np.ndarray) -> Any:
            return self._once(config.cutler, lambda: cached_model(Cutler, config.cutler).detect(image))

        def generate(image: np.ndarray) -> Any:
            return self._once(config.sam, lambda: cached_model(AutomaticSam, config.sam).generate(image))

        detector, segmenter = SimpleNamespace(detect=detect), SimpleNamespace(generate=generate)
        records = draw_masks(detector, segmenter, self.scene.image, config.matching)
        drawn = [record.mask for record in records if not record.mask.all()]
        return np.stack(drawn) if drawn else np.zeros((0, *self.scene.image.shape[:2]), bool)

    def candidates(self, masks: np.ndarray, config: CaptionGenerationConfig) -> list[list[Candidate]]:
        """Returns the captions that stage 2 writes for each mask."""
        if not len(masks):
            return []
        return self._once(
            (masks.tobytes(), config.decoding, config.crops, config.listener),
            lambda: write_candidates(
                cached_model(CocaCaptioner, config.coca),
                self.scene.image,
                masks,
                list(range(len(masks))),
                self.image_id,
                config.decoding,
                config.crops,
                config.listener,
            ),
        )

    def captions(self, masks: np.ndarray, config: CaptionGenerationConfig) -> list[MaskCaptions]:
        """Returns the scored candidates of each mask."""
        if not len(masks):
            return []
        return self._once(
            (masks.tobytes(), config.decoding, config.crops, config.listener, config.places, config.scoring.score_floor),
            lambda: score_candidates(
                cached_model(ClipScorer, config.clip),
                self._find_noun,
                self.scene.image,
                masks,
                list(range(len(masks))),
                self.candidates(masks, config),
                config.scoring,
                config.crops,
                config.places,
            ),
        )

    def _once(self, key: Hashable, make: Callable[[], Made]) -> Made:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


def shown_twice(masks: np.ndarray) -> int:
    """Counts the masks, bool [M, H, W], that show the same as another one (IoU >= SAME_OBJECT_IOU)."""
    same = iou_matrix(masks, masks) >= SAME_OBJECT_IOU
    return int((same.sum(axis=1) > 1).sum())


def judge_filter(
    scene: Scene,
    owners: Sequence[int | None],
    captions: Sequence[MaskCaptions],
    threshold: float,
    fallback: Literal["drop", "unfiltered"],
) -> FilterCounts:
    """Judges the candidates that pass the DoC filter. owners: index of each mask's object, None if it matches none."""
    kept = [[record.text for record in kept_candidates(own, threshold, fallback)] for own in captions]
    alone = [judge_captions(scene, [owner], [texts]) for owner, texts in zip(owners, kept, strict=True) if texts]
    drawn_distinctive = sum(of_mask.distinctive_share for of_mask in alone)
    return FilterCounts(judge_captions(scene, owners, kept), len(kept), len(alone), drawn_distinctive)
