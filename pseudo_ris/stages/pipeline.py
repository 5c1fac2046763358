"""Both stages for one image at a time, as a notebook uses them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pseudo_ris.config import CaptionGenerationConfig, MaskGenerationConfig
from pseudo_ris.distinctiveness.nouns import NounFinder, make_noun_finder, with_noun_finder
from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.io.device import pick_device
from pseudo_ris.io.image_ids import image_id_of
from pseudo_ris.io.images import ImageLike, decode_image, encode_image, load_image
from pseudo_ris.io.mask_png import encode_mask
from pseudo_ris.masks.pipeline import draw_masks
from pseudo_ris.models.offload import ModelRoom, takes_turns
from pseudo_ris.pairs.assembly import COLUMNS, row_of
from pseudo_ris.pairs.candidate_table import table_of
from pseudo_ris.pairs.pictures import OneImage
from pseudo_ris.records import MaskRecord
from pseudo_ris.stages import captions, masks
from pseudo_ris.stages.pair_set import PairSet
from pseudo_ris.stages.settings import stage_settings
from pseudo_ris.storage.caption_parts import Part, rounded
from pseudo_ris.storage.mask_store import without_blank


class Pipeline:
    """From an image to mask-expression pairs. Models are loaded when they are first used, and kept.

    It takes the steps that the commands take, so that the pairs of an image file are the rows that
    `pseudo-ris masks --images FILE` and `pseudo-ris pairs --images FILE` write.

    detector, segmenter, captioner, scorer: the models (Cutler, AutomaticSam, CocaCaptioner, ClipScorer), to be used by
    themselves.

    Args:
        mask_settings: of stage 1; None for those of the embedded demo models.
        caption_settings: of stage 2, likewise.
        device: "auto" takes CUDA when there is one; or "cpu", "cuda", "cuda:1".

    Raises UserError when there is no such device. Calls raise UserError when weights are missing or do not fit.

    Examples:
        >>> pipeline = pr.Pipeline.from_preset("demo", {"scoring.threshold": 1.1}, device="cpu")
        >>> pairs = pipeline("photo.jpg")
        >>> pairs
        PairSet(images=1, masks=2, expressions=92)
        >>> pairs[0].best
        'a large orange car'
    """

    def __init__(
        self,
        mask_settings: MaskGenerationConfig | None = None,
        caption_settings: CaptionGenerationConfig | None = None,
        device: str = "auto",
    ) -> None:
        self.mask_settings = mask_settings or MaskGenerationConfig()
        stage2 = caption_settings or CaptionGenerationConfig()
        self.caption_settings = replace(stage2, scoring=with_noun_finder(stage2.scoring))
        self.device = pick_device(device, self.mask_settings.allow_tf32)
        in_turn = takes_turns(self.mask_settings.residency, self.device, self._weight_bytes)
        room = ModelRoom(self.device, in_turn)
        self.detector, self.segmenter = masks.models_in(room, self.mask_settings)
        self.captioner, self.scorer = captions.models_in(room, self.caption_settings)

    @classmethod
    def from_preset(
        cls, preset: str | Path = "demo", settings: Mapping[str, Any] | None = None, device: str = "auto"
    ) -> Pipeline:
        """The pipeline of a preset.

        Args:
            preset: "demo" (embedded models, which know drawn things only), "default" (recommended, needs the weights of
                `pseudo-ris weights`), "paper" (the released settings), or a YAML file of settings.
            settings: win over the preset's, by dotted or nested names: {"scoring.threshold": 1.1}.
            device: see Pipeline.

        Raises UserError that gives the nearest name of an unknown preset or setting, or names the value that does not fit.
        """
        given = settings or {}
        stages = (stage_settings(stage, preset, given) for stage in (MaskGenerationConfig, CaptionGenerationConfig))
        return cls(*stages, device)

    def __call__(self, image: ImageLike, masks: Sequence[np.ndarray] | np.ndarray | None = None) -> PairSet:
        """The pairs of an image: all candidate expressions of its masks with their scores, see `PairSet.select`.

        Args:
            image: path, PIL image, or RGB uint8 array [H, W, 3]. The sampled candidates of an image depend on its file name
                (without suffix), as they do in the commands; what is no file is called `image.png`.
            masks: bool [N, H, W] of your own; None draws them (stage 1).

        Raises UserError when the image or a mask cannot be used; the message says what to change.
        """
        name, data = encode_image(image)
        try:
            pixels = decode_image(data, name)
            drawn = self._draw(pixels) if masks is None else _given_masks(masks, pixels)
            image_id = image_id_of(name)
            seg_ids, usable = without_blank(drawn, *pixels.shape[:2], image_id)
            settings = self.caption_settings
            described = captions.caption_masks(
                self.captioner, self.scorer, self._find_noun, pixels, usable, seg_ids, image_id, settings
            )
        except BadInputError as error:
            raise UserError(f"image {error}") from error
        part = Part(image_id, name, tuple(rounded(each) for each in described))
        table = table_of(COLUMNS, (row_of(part, each) for each in part.masks))
        pictures = OneImage(name, data, {seg_id: encode_mask(mask) for seg_id, mask in zip(seg_ids, usable, strict=True)})
        return PairSet(table, pictures, name, threshold=settings.scoring.threshold)

    def find_masks(self, image: ImageLike) -> list[MaskRecord]:
        """Stage 1 alone: an image's masks with boxes and CutLER's scores, the highest score first. Raises UserError."""
        return draw_masks(self.detector, self.segmenter, load_image(image), self.mask_settings.matching)

    def __repr__(self) -> str:
        parts = {"cutler": self.mask_settings.cutler, "sam": self.mask_settings.sam}
        parts |= {"coca": self.caption_settings.coca, "clip": self.caption_settings.clip}
        models = ", ".join(f"{name} {part.architecture} (weights {part.weights})" for name, part in parts.items())
        return f"Pipeline({models} on {self.device})"

    def _draw(self, image: np.ndarray) -> dict[int, np.ndarray]:
        """Seg id -> mask."""
        drawn = draw_masks(self.detector, self.segmenter, image, self.mask_settings.matching)
        return {record.seg_id: record.mask for record in drawn}

    @cached_property
    def _find_noun(self) -> NounFinder:
        return make_noun_finder(self.caption_settings.scoring)

    def _weight_bytes(self) -> int:
        return masks.weights_of(self.mask_settings, self.device) + captions.weights_of(self.caption_settings, self.device)


def _given_masks(masks: Sequence[np.ndarray] | np.ndarray, image: np.ndarray) -> dict[int, np.ndarray]:
    """Seg id -> mask, bool [H, W]. Raises UserError."""
    found = dict(enumerate(np.asarray(mask) for mask in masks))
    for number, mask in found.items():
        if mask.dtype != bool or mask.shape != image.shape[:2]:
            wanted, got = list(image.shape[:2]), f"{mask.dtype} {list(mask.shape)}"
            raise UserError(f"masks[{number}]: must be bool {wanted} as the image, got {got}; convert or resize it")
    return found
