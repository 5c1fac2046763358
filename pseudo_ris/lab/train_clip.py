"""Trains the embedded CLIP on drawn objects so that ratios of its logits tell true expressions from untrue ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import binary_cross_entropy_with_logits, normalize

from pseudo_ris.assets.architectures import CLIP
from pseudo_ris.distinctiveness.nouns import noun_prompt
from pseudo_ris.lab.crop_data import EDGE_ERRORS, CropSource, Target, truth_matrix
from pseudo_ris.lab.fit import CPU, autocast, fit
from pseudo_ris.models.clip.scorer import build_clip, build_tokenizer
from pseudo_ris.world.grammar import full_caption, sample_caption
from pseudo_ris.world.scene_set import SceneSet
from pseudo_ris.world.scenes import CATEGORIES, SceneObject

STEPS = 2200
BATCH = 64
MASKED = 32
LEARNING_RATE = 1.5e-3
# Fraction of sentences that name all attributes; patterns and sizes are learned faster from them.
FULL_SENTENCES = 0.5

# DoC is a ratio of products of logits, (m_i b_i) / max_j (m_j b_j), so logits must be positive and a mismatch must always cost
# about the same factor. The training therefore treats logit - centre as log-odds of truth; smoothed targets bound the logit to
# centre +- log((1 - smoothing) / smoothing).
SENTENCE_CENTRE, SENTENCE_SMOOTHING = 4.7, 0.06
# Noun prompts vary less: otherwise the noun alone would make an untrue sentence about the only boat of an image pass.
NOUN_CENTRE, NOUN_SMOOTHING = 6.4, 0.2
NOUN_WEIGHT = 0.5
NOUN_PROMPTS = tuple(noun_prompt(category) for category in CATEGORIES)


def train_clip(scenes: SceneSet, seed: int, steps: int | None = None, device: torch.device = CPU) -> nn.Module:
    """Trains a CLIP to score sentences and "a photo of a NOUN" on image crops with margin 1.2 and on masked crops.

    Batches consist of whole scenes, so look-alikes are hard negatives. The truth of every text-object pair is known, so each
    pair contributes a sigmoid loss as in SigLIP (Zhai et al. 2023). The logit scale stays at its initial value.

    Returns the model on `device`, in eval mode. Scenes, seed and steps determine the weights on the same kind of machine.
    """
    torch.manual_seed(seed)
    model, tokenizer = build_clip("demo").to(device), build_tokenizer("demo")
    model.visual.to(memory_format=torch.channels_last)
    source = CropSource(scenes, CLIP["vision_cfg"]["image_size"], EDGE_ERRORS)
    prompt_tokens = tokenizer(list(NOUN_PROMPTS))

    def loss_of_step(step: int) -> torch.Tensor:
        rng = np.random.default_rng((seed, step))
        targets = source.draw_scenes(rng, BATCH)
        # Image crops of all targets, and additional masked crops of some.
        targets += targets[:MASKED]
        crop_sets = ["image_1.2"] * (len(targets) - MASKED) + ["masked"] * MASKED
        crops = source.cut(targets, crop_sets, rng).contiguous(memory_format=torch.channels_last)
        sentences = [_sentence(target.attributes, rng) for target in targets]
        tokens = torch.cat([tokenizer(sentences), prompt_tokens])
        with autocast(device), sdpa_kernel(SDPBackend.MATH):
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
    """Returns which noun is the category of which target: bool [nouns, targets]."""
    categories = np.array([target.attributes.category for target in targets])
    return torch.from_numpy(np.array(nouns)[:, None] == categories)


def truth_loss(log_odds: torch.Tensor, truth: torch.Tensor, hard: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Returns the cross-entropy of text-crop pairs: the sum of the means over true, hard untrue and easy untrue pairs.

    log_odds: float [texts, crops]. truth, hard: bool [texts, crops]; true pairs do not count as hard.
    smoothing: assumed probability that a label is wrong.
    """
    labels = truth.float() * (1 - 2 * smoothing) + smoothing
    losses = binary_cross_entropy_with_logits(log_odds, labels, reduction="none")
    groups = (truth, ~truth & hard, ~truth & ~hard)
    return sum((losses * group).sum() / group.sum().clamp(min=1) for group in groups)
