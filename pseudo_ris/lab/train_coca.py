"""Trains the demo CoCa on crops of drawn objects: captions that name random attributes, and image-text contrast."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from pseudo_ris.assets.architectures import COCA
from pseudo_ris.captions.crops import CROP_SETS
from pseudo_ris.lab.crop_data import CropSource, truth_matrix
from pseudo_ris.lab.fit import CPU, fit
from pseudo_ris.models.coca.captioner import build_coca, build_tokenizer
from pseudo_ris.world.grammar import full_caption, sample_caption
from pseudo_ris.world.scene_set import SceneSet
from pseudo_ris.world.scenes import SceneObject

STEPS = 3600
BATCH = 64
LEARNING_RATE = 1e-3
# The paper's CoCa weighs captioning twice as much as contrast (Yu et al. 2022); the captions matter more here.
CONTRASTIVE_WEIGHT = 0.2
# open_clip's beam search adds up raw logits. They mean something only when their common offset is held at log Z = 0 (the z-loss
# of PaLM, Chowdhery et al. 2022); without it, words that say nothing were repeated.
OFFSET_WEIGHT = 0.05
# Share of the steps that start the training with captions of all attributes: seeing patterns is learnt slowly from captions
# that seldom name them.
FULL_CAPTIONS = 0.7
PAD = 0


def train_coca(scenes: SceneSet, seed: int, steps: int | None = None, device: torch.device = CPU) -> nn.Module:
    """A CoCa that captions crops of drawn objects.

    Every step sees new crops of random crop sets. At first their captions name all attributes; then each names a fresh
    random subset, so that generic captions become likely, which is what distinctive decoding is there to change.

    Returns the model on `device`, in eval mode.
    The same scenes, seed and steps give the same weights on the same kind of machine.
    """
    torch.manual_seed(seed)
    model, tokenizer = build_coca("demo").to(device), build_tokenizer("demo")
    source = CropSource(scenes, COCA["vision_cfg"]["image_size"])
    steps = steps or STEPS

    def loss_of_step(step: int) -> torch.Tensor:
        rng = np.random.default_rng((seed, step))
        targets = source.draw_scenes(rng, BATCH)
        crops = source.cut(targets, [CROP_SETS[int(rng.integers(4))] for _ in targets], rng)
        texts = [_caption(target.attributes, step < FULL_CAPTIONS * steps, rng) for target in targets]
        tokens = tokenizer(texts)
        tokens = tokens[:, : int((tokens != PAD).sum(1).max())]
        with torch.autocast(device.type, torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            output = model(crops.to(device), tokens.to(device))
        logits, labels = output["logits"].float().flatten(0, 1), output["labels"].flatten().to(device)
        caption_loss = cross_entropy(logits, labels, ignore_index=PAD)
        offset_loss = logits[labels != PAD].logsumexp(1).square().mean()
        contrastive = contrastive_loss(
            output["image_features"], output["text_features"], output["logit_scale"], truth_matrix(texts, targets).to(device)
        )
        return caption_loss + CONTRASTIVE_WEIGHT * contrastive + OFFSET_WEIGHT * offset_loss

    return fit(model, loss_of_step, name="coca", steps=steps, learning_rate=LEARNING_RATE)


def _caption(attributes: SceneObject, full: bool, rng: np.random.Generator) -> str:
    return full_caption(attributes) if full else sample_caption(attributes, rng)


def contrastive_loss(
    image_latents: torch.Tensor, text_latents: torch.Tensor, scale: torch.Tensor, truth: torch.Tensor
) -> torch.Tensor:
    """Symmetric InfoNCE of pairs (image i, text i) in which texts true of another image do not count as negatives.

    image_latents, text_latents: [n, d], unit length. truth: bool [texts, images].
    """
    logits = scale.float() * text_latents.float() @ image_latents.float().T
    others = truth & ~torch.eye(len(truth), dtype=torch.bool, device=truth.device)
    logits = logits.masked_fill(others, float("-inf"))
    pairs = torch.arange(len(logits), device=logits.device)
    return (cross_entropy(logits, pairs) + cross_entropy(logits.T, pairs)) / 2
