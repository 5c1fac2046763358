"""What fine-tuning did to the small CoCa: caption loss and judged captions before and after, on freshly drawn scenes.

    pseudo-ris lab finetune-report --weights FILE --log out.log

prints a table and, as its last line, one JSON object. Exit code 1 when the loss did not fall or the captions are not better.
"""

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
from pseudo_ris.models.coca.captioner import CocaCaptioner, build_tokenizer
from pseudo_ris.world.grammar import full_caption, parse
from pseudo_ris.world.judge import CaptionCounts, Counts, judge_captions, share, total
from pseudo_ris.world.scenes import Scene, SceneObject

SPLIT = "evaluation"
SCENES = 100
SEED = 0
ATTRIBUTES = ("category", "size", "colour", "pattern")
# How much of the share of named attributes that are right may be lost. The share of captions that are wholly true falls more:
# the trained ones name four attributes instead of under three, so they can be wrong in more.
TOLERANCE = 0.01
LABELS = {
    "caption_loss": "caption loss a token, new scenes",
    "beam_attributes": "attributes in a beam caption",
    "beam_attributes_right": "  of these right",
    "beam_true": "beam captions that are true",
    "beam_unique": "  unique",
    "beam_distinctive": "  distinctive",
}
BEAM_ONLY = DecodingConfig(top_k=(), top_p=())
FAILED = 1


@dataclass(frozen=True)
class CocaCounts(Counts):
    """How a CoCa does on drawn scenes, on their true masks in all crop sets.

    loss: sum of the cross-entropy of the full captions' tokens, end included, in nats. tokens: how many. named, right: how many
    attributes the beam search captions name, and name rightly. beams: these captions, judged.
    """

    loss: float = 0.0
    tokens: int = 0
    named: int = 0
    right: int = 0
    beams: CaptionCounts = field(default_factory=CaptionCounts)

    def figures(self) -> dict[str, float]:
        """What is reported: mean loss a token; attributes a beam caption, share of right ones; shares of the captions."""
        figures = {
            "caption_loss": share(self.loss, self.tokens),
            "beam_attributes": share(self.named, self.beams.captions),
            "beam_attributes_right": share(self.right, self.named),
            "beam_true": self.beams.true_share,
            "beam_unique": self.beams.unique_share,
            "beam_distinctive": self.beams.distinctive_share,
        }
        return {name: round(value, 4) for name, value in figures.items()}


def measure(weights: str, scenes: Sequence[Scene]) -> CocaCounts:
    """Counts of the small CoCa with these weights ("demo" or a checkpoint file), on the CPU. Raises UserError."""
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
    """Summed cross-entropy of the full captions' tokens given the objects' crops in all crop sets, and their number."""
    size, config = captioner.image_size, CropConfig()
    crops = torch.cat([cut_crops(scene.image, scene.masks, crop_set, size, config) for crop_set in CROP_SETS])
    captions = [full_caption(obj) for obj in scene.objects] * len(CROP_SETS)
    tokens = build_tokenizer("demo")(captions, context_length=captioner.context)
    output = captioner.model(crops, tokens)
    logits, labels = output["logits"].flatten(0, 1), output["labels"].flatten()
    loss = cross_entropy(logits, labels, ignore_index=captioner.pad, reduction="sum")
    return float(loss), int((labels != captioner.pad).sum())


def named_attributes(text: str, obj: SceneObject) -> tuple[int, int]:
    """How many attributes a caption of `obj` names, and how many rightly; an ungrammatical one names a wrong category."""
    said = parse(text)
    if said is None:
        return 1, 0
    claims = [(getattr(said, word), getattr(obj, word)) for word in ATTRIBUTES]
    return sum(claim is not None for claim, _ in claims), sum(claim == actual for claim, actual in claims)


def training_losses(log: Path) -> list[float]:
    """The caption losses that open_clip's training has logged, in order. Raises UserError when the log has none."""
    try:
        content = log.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"--log {log}: {error.strerror}; give the out.log of open_clip's training") from error
    losses = [float(value) for value in re.findall(r"Train Epoch: .* Caption_loss: (\S+)", content)]
    if not losses:
        raise UserError(f"--log {log}: no line with a caption loss; give the out.log of open_clip's training of a CoCa")
    return losses


def shortcomings(before: dict[str, float], after: dict[str, float], losses: Sequence[float]) -> list[str]:
    """Which of the expected improvements (see `CocaCounts.figures`, `training_losses`) are missing; nan improves nothing."""
    expected = {
        "the training loss did not fall": losses[-1] < losses[0],
        "the caption loss on new scenes did not fall": after["caption_loss"] < before["caption_loss"],
        "captions are not more often distinctive": after["beam_distinctive"] > before["beam_distinctive"],
        "the attributes in captions are less often right": after["beam_attributes_right"]
        >= before["beam_attributes_right"] - TOLERANCE,
    }
    return [message for message, holds in expected.items() if not holds]


def table(before: dict[str, float], after: dict[str, float], losses: Sequence[float]) -> str:
    """The figures for a person."""
    rows = {"training loss, first and last logged": (losses[0], losses[-1])}
    rows.update({label: (before[name], after[name]) for name, label in LABELS.items()})
    lines = [f"{'fine-tuning the small CoCa':40}{'before':>8}{'after':>8}"]
    return "\n".join(lines + [f"{label:40}{first:8.3f}{last:8.3f}" for label, (first, last) in rows.items()])
