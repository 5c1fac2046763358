"""Measures what fine-tuning changed: caption loss and judged captions before and after (`pseudo-ris lab finetune-report`)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from pseudo_ris.captions.crops import CROP_SETS, cut_crops
from pseudo_ris.captions.distinctive import write_candidates
from pseudo_ris.config import CocaConfig, CropConfig, DecodingConfig
from pseudo_ris.errors import UserError
from pseudo_ris.lab.output import DIGITS, format_table
from pseudo_ris.models.coca.captioner import CocaCaptioner, build_tokenizer
from pseudo_ris.world.grammar import full_caption, parse
from pseudo_ris.world.judge import CaptionCounts, Counts, judge_captions, share, total
from pseudo_ris.world.scenes import Scene, SceneObject

SPLIT = "evaluation"
SCENES = 100
SEED = 0
ATTRIBUTES = ("category", "size", "colour", "pattern")
# Allowed drop of the share of named attributes that are right. The share of captions that are true may drop further, because
# fine-tuned captions name four attributes instead of fewer than three and so have more chances to be wrong.
TOLERANCE = 0.01
LABELS = {
    "caption_loss": "caption loss per token, new scenes",
    "beam_attributes": "attributes per beam caption",
    "beam_attributes_right": "  of these right",
    "beam_true": "beam captions that are true",
    "beam_unique": "  unique",
    "beam_distinctive": "  distinctive",
}
BEAM_ONLY = DecodingConfig(top_k=(), top_p=())
FAILED = 1


@dataclass(frozen=True)
class CocaCounts(Counts):
    """Counts of a CoCa on drawn scenes, with their true masks in all crop sets.

    loss: summed cross-entropy, in nats, of the tokens of the full captions, end token included. tokens: their number. named,
    right: attributes that beam captions name, and name correctly. beams: the judged beam captions.
    """

    loss: float = 0.0
    tokens: int = 0
    named: int = 0
    right: int = 0
    beams: CaptionCounts = field(default_factory=CaptionCounts)

    def figures(self) -> dict[str, float]:
        """Returns the reported figures, rounded: mean loss per token, attributes per beam caption, and shares of captions."""
        figures = {
            "caption_loss": share(self.loss, self.tokens),
            "beam_attributes": share(self.named, self.beams.captions),
            "beam_attributes_right": share(self.right, self.named),
            "beam_true": self.beams.true_share,
            "beam_unique": self.beams.unique_share,
            "beam_distinctive": self.beams.distinctive_share,
        }
        return {name: round(value, DIGITS) for name, value in figures.items()}


def measure(weights: str, scenes: Sequence[Scene]) -> CocaCounts:
    """Measures the small CoCa on the CPU. weights: "demo" or a checkpoint file. Raises UserError."""
    captioner = CocaCaptioner.from_config(CocaConfig(weights=weights), "cpu")
    return total(_measure_scene(captioner, scene) for scene in scenes)


def _measure_scene(captioner: CocaCaptioner, scene: Scene) -> CocaCounts:
    everything = list(range(len(scene.objects)))
    candidates = write_candidates(captioner, scene.image, scene.masks, everything, "", BEAM_ONLY, CropConfig())
    texts = [[candidate.text for candidate in own] for own in candidates]
    named = [named_attributes(text, obj) for obj, own in zip(scene.objects, texts, strict=True) for text in own]
    named_and_right = (sum(counts) for counts in zip(*named, strict=True))
    return CocaCounts(*caption_loss(captioner, scene), *named_and_right, judge_captions(scene, everything, texts))


@torch.inference_mode()
def caption_loss(captioner: CocaCaptioner, scene: Scene) -> tuple[float, int]:
    """Returns the summed cross-entropy of the full captions' tokens given the objects' crops, and the number of tokens."""
    size, config = captioner.image_size, CropConfig()
    crops = torch.cat([cut_crops(scene.image, scene.masks, crop_set, size, config) for crop_set in CROP_SETS])
    captions = [full_caption(obj) for obj in scene.objects] * len(CROP_SETS)
    tokens = build_tokenizer("demo")(captions, context_length=captioner.context)
    output = captioner.model(crops, tokens)
    logits, labels = output["logits"].flatten(0, 1), output["labels"].flatten()
    loss = cross_entropy(logits, labels, ignore_index=captioner.pad, reduction="sum")
    return float(loss), int((labels != captioner.pad).sum())


def named_attributes(text: str, obj: SceneObject) -> tuple[int, int]:
    """Returns how many attributes a caption of `obj` names, and how many correctly; ungrammatical captions count as (1, 0)."""
    said = parse(text)
    if said is None:
        return 1, 0
    claims = [(getattr(said, word), getattr(obj, word)) for word in ATTRIBUTES]
    return sum(claim is not None for claim, _ in claims), sum(claim == actual for claim, actual in claims)


def training_losses(log: Path) -> list[float]:
    """Reads the caption losses, in order, from a log of open_clip's training. Raises UserError when there are none."""
    try:
        content = log.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"--log {log}: {error.strerror}; give the out.log of open_clip's training") from error
    losses = [float(value) for value in re.findall(r"Train Epoch: .* Caption_loss: (\S+)", content)]
    if not losses:
        raise UserError(f"--log {log}: no line with a caption loss; give the out.log of open_clip's training of a CoCa")
    return losses


def shortcomings(before: dict[str, float], after: dict[str, float], losses: Sequence[float]) -> list[str]:
    """Returns messages about the expected improvements that are missing. NaN counts as no improvement."""
    expected = {
        "the training loss did not fall": losses[-1] < losses[0],
        "the caption loss on new scenes did not fall": after["caption_loss"] < before["caption_loss"],
        "captions are not more often distinctive": after["beam_distinctive"] > before["beam_distinctive"],
        "the attributes in captions are less often right": after["beam_attributes_right"]
        >= before["beam_attributes_right"] - TOLERANCE,
    }
    return [message for message, holds in expected.items() if not holds]


def table(before: dict[str, float], after: dict[str, float], losses: Sequence[float]) -> str:
    """Returns the figures as a table."""
    rows = {"training loss, first and last logged": (losses[0], losses[-1])}
    rows.update({label: (before[name], after[name]) for name, label in LABELS.items()})
    cells = [(label, f"{first:.3f}", f"{last:.3f}") for label, (first, last) in rows.items()]
    return format_table(("fine-tuning the small CoCa", "before", "after"), cells)
