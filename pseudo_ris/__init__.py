"""Pseudo-RIS: unlabeled images into training data for referring image segmentation, and models trained on it.

The names below are the public interface. Each is imported when it is first used, so that importing the package is quick:

    import pseudo_ris as pr

    pipeline = pr.Pipeline.from_preset("demo")      # or "default", "paper", a YAML file
    pairs = pipeline("photo.jpg")                   # masks, candidate expressions, scores
    pairs = pr.generate("photos", "out")            # both stages on a folder
    pairs.select(doc=1.1, top_k=5).export("refer", "out/refer")
    model = pr.load_ris("best.pt")
    mask = model.segment("photo.jpg", "the dog on the left")
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pseudo_ris.captions.distinctive import write_candidates
    from pseudo_ris.config import (
        CaptionGenerationConfig,
        ClipConfig,
        CocaConfig,
        CropConfig,
        CutlerConfig,
        DecodingConfig,
        MaskGenerationConfig,
        MatchingConfig,
        SamConfig,
        ScoringConfig,
    )
    from pseudo_ris.distinctiveness.nouns import make_noun_finder
    from pseudo_ris.distinctiveness.score import score_candidates
    from pseudo_ris.errors import BadInputError, UserError
    from pseudo_ris.io.images import load_image
    from pseudo_ris.masks.matching import match_masks
    from pseudo_ris.masks.pipeline import draw_masks
    from pseudo_ris.models.clip.scorer import ClipScorer
    from pseudo_ris.models.coca.captioner import CocaCaptioner
    from pseudo_ris.models.cutler.detector import Cutler
    from pseudo_ris.models.sam.segmenter import AutomaticSam
    from pseudo_ris.pairs.selection import kept_candidates
    from pseudo_ris.pairs.selection_rules import SelectionRules
    from pseudo_ris.ris.evaluation.predict import RisSegmenter, load_ris
    from pseudo_ris.stages.generate import generate
    from pseudo_ris.stages.pair_set import MaskExpressions, PairSet, read_pairs
    from pseudo_ris.stages.pipeline import Pipeline

__all__ = [
    "AutomaticSam",
    "BadInputError",
    "CaptionGenerationConfig",
    "ClipConfig",
    "ClipScorer",
    "CocaCaptioner",
    "CocaConfig",
    "CropConfig",
    "Cutler",
    "CutlerConfig",
    "DecodingConfig",
    "MaskExpressions",
    "MaskGenerationConfig",
    "MatchingConfig",
    "PairSet",
    "Pipeline",
    "RisSegmenter",
    "SamConfig",
    "ScoringConfig",
    "SelectionRules",
    "UserError",
    "draw_masks",
    "generate",
    "kept_candidates",
    "load_image",
    "load_ris",
    "make_noun_finder",
    "match_masks",
    "read_pairs",
    "score_candidates",
    "write_candidates",
]

_MODULES = {
    "captions.distinctive": ("write_candidates",),
    "config": tuple(name for name in __all__ if name.endswith("Config")),
    "distinctiveness.nouns": ("make_noun_finder",),
    "distinctiveness.score": ("score_candidates",),
    "errors": ("BadInputError", "UserError"),
    "io.images": ("load_image",),
    "masks.matching": ("match_masks",),
    "masks.pipeline": ("draw_masks",),
    "models.clip.scorer": ("ClipScorer",),
    "models.coca.captioner": ("CocaCaptioner",),
    "models.cutler.detector": ("Cutler",),
    "models.sam.segmenter": ("AutomaticSam",),
    "pairs.selection": ("kept_candidates",),
    "pairs.selection_rules": ("SelectionRules",),
    "ris.evaluation.predict": ("RisSegmenter", "load_ris"),
    "stages.generate": ("generate",),
    "stages.pair_set": ("MaskExpressions", "PairSet", "read_pairs"),
    "stages.pipeline": ("Pipeline",),
}
_HOMES = {name: f"{__name__}.{module}" for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    """A public name, imported from its module at its first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if sys.argv[:1] == ["-m"]:  # `python -m pseudo_ris.X`: Python imports this package before it runs X as a command
    from pseudo_ris.runtime.entry import begin_command

    begin_command()
