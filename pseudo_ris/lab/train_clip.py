"""Trains the demo CLIP on drawn objects so that ratios of its logits tell what an expression is true of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import binary_cross_entropy_with_logits, normalize

from pseudo_ris.assets.architectures import CLIP
from pseudo_ris.distinctiveness.nouns import noun_prompt
from pseudo_ris.lab.crop_data import CropSource, Target, truth_matrix
from pseudo_ris.lab.fit import CPU, fit
from pseudo_ris.models.clip.scorer import build_clip, build_tokenizer
from pseudo_ris.world.grammar import full_caption, sample_caption
from pseudo_ris.world.scene_set import SceneSet
from pseudo_ris.world.scenes import CATEGORIES, SceneObject

STEPS = 2200
BATCH = 64
MASKED = 32
LEARNING_RATE = 1.5e-3
# Share of sentences that name every attribute: what tells patterns and sizes apart is learnt faster from those.
FULL_SENTENCES = 0.5

# DoC is a ratio of products of logits, (m_i b_i) / max_j (m_j b_j), so logits must stay positive and a mismatch must always
# cost about the same factor. A logit is therefore read as log-odds of truth about a centre, and smoothed targets bound it to
# centre +- log((1 - smoothing) / smoothing).
SENTENCE_CENTRE, SENTENCE_SMOOTHING = 4.7, 0.06
# Noun prompts move less. If they moved as much, an untrue sentence about the only boat of an image would pass for its noun.
NOUN_CENTRE, NOUN_SMOOTHING = 6.4, 0.2
NOUN_WEIGHT = 0.5
NOUN_PROMPTS = tuple(noun_prompt(category) for category in CATEGORIES)


def train_clip(scenes: SceneSet, seed: int, steps: int | None = None, device: torch.device = CPU) -> nn.Module:
    """A CLIP that scores sentences on image crops at margin 1.2 and "a photo of a NOUN" on masked crops, and the reverse.

    A batch is made of whole scenes, so that look-alikes meet as hard negatives. Which text is true of which object is known, so
    every pair of the batch is learnt from as true or untrue (a sigmoid loss, as in SigLIP, Zhai et al. 2023).
    The logit scale keeps its initial value.

    Returns the model on `device`, in eval mode.
    The same scenes, seed and steps give the same weights on the same kind of machine.
    """
    torch.manual_seed(seed)
    model, tokenizer = build_clip("demo").to(device), build_tokenizer("demo")
    model.visual.to(memory_format=torch.channels_last)
    source = CropSource(scenes, CLIP["vision_cfg"]["image_size"])
    prompt_tokens = tokenizer(list(NOUN_PROMPTS))

    def loss_of_step(step: int) -> torch.Tensor:
        rng = np.random.default_rng((seed, step))
        targets = source.draw_scenes(rng, BATCH)
        # All of them in their surroundings, and some once more without.
        targets += targets[:MASKED]
        crop_sets = ["image_1.2"] * (len(targets) - MASKED) + ["masked"] * MASKED
        crops = source.cut(targets, crop_sets, rng).contiguous(memory_format=torch.channels_last)
        sentences = [_sentence(target.attributes, rng) for target in targets]
        tokens = torch.cat([tokenizer(sentences), prompt_tokens])
        with torch.autocast(device.type, torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            image_rows, text_rows = model.encode_image(crops.to(device)), model.encode_text(tokens.to(device))
        cosines = normalize(text_rows.float(), dim=1) @ normalize(image_rows.float(), dim=1).T
        logits = model.logit_scale.exp().detach() * cosines
        nouns = noun_truth(CATEGORIES, targets).to(device)
        sentence_loss = truth_loss(
            logits[: len(sentences)] - SENTENCE_CENTRE,
            truth_matrix(sentences, targets).to(device),
            noun_truth([target.attributes.category for target in targets], targets).to(device),
            SENTENCE_SMOOTHING,
        )
        noun_loss = truth_loss(logits[len(sentences) :] - NOUN_CENTRE, nouns, nouns, NOUN_SMOOTHING)
        return sentence_loss + NOUN_WEIGHT * noun_loss

    fit(model, loss_of_step, name="clip", steps=steps or STEPS, learning_rate=LEARNING_RATE)
    return model.to(memory_format=torch.contiguous_format)


def _sentence(attributes: SceneObject, rng: np.random.Generator) -> str:
    return full_caption(attributes) if rng.random() < FULL_SENTENCES else sample_caption(attributes, rng)


def noun_truth(nouns: Sequence[str], targets: Sequence[Target]) -> torch.Tensor:
    """Which noun is which target's category. Returns bool [nouns, targets]."""
    categories = np.array([target.attributes.category for target in targets])
    return torch.from_numpy(np.array(nouns)[:, None] == categories)


def truth_loss(log_odds: torch.Tensor, truth: torch.Tensor, hard: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Cross-entropy of text-crop pairs, averaged over true pairs, hard untrue pairs and easy untrue pairs alike.

    log_odds: float [texts, crops]. truth, hard: bool of that shape; true pairs are never counted as hard.
    smoothing: probability that a label is taken to be wrong.
    """
    labels = truth.float() * (1 - 2 * smoothing) + smoothing
    losses = binary_cross_entropy_with_logits(log_odds, labels, reduction="none")
    groups = (truth, ~truth & hard, ~truth & ~hard)
    return sum((losses * group).sum() / group.sum().clamp(min=1) for group in groups)
