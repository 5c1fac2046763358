"""Trains the embedded CoCa on crops of drawn objects, with a captioning and a contrastive loss."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from pseudo_ris.assets.architectures import COCA
from pseudo_ris.captions.crops import CROP_SETS
from pseudo_ris.lab.crop_data import CropSource, truth_matrix
from pseudo_ris.lab.fit import CPU, autocast, fit
from pseudo_ris.models.coca.captioner import build_coca, build_tokenizer
from pseudo_ris.world.grammar import full_caption, sample_caption
from pseudo_ris.world.scene_set import SceneSet
from pseudo_ris.world.scenes import SceneObject

STEPS = 9000
BATCH = 64
LEARNING_RATE = 1e-3
# CoCa weighs captioning twice as much as contrast (Yu et al. 2022); captions matter even more here.
CONTRASTIVE_WEIGHT = 0.2
# open_clip's beam search sums raw logits, which are comparable only if log Z stays near 0 (the z-loss of PaLM, Chowdhery et
# al. 2022); without this loss, captions repeated meaningless words.
OFFSET_WEIGHT = 0.05
# Fraction of the steps, at the start, that use captions with all attributes: the model learns to see patterns slowly from
# captions that rarely name them.
FULL_CAPTIONS = 0.7
PAD = 0


def train_coca(scenes: SceneSet, seed: int, steps: int | None = None, device: torch.device = CPU) -> nn.Module:
    """Trains a CoCa that captions crops of drawn objects.

    Every step uses new crops in random crop sets. Captions first name all attributes, then a random subset, so that generic
    captions become likely, which distinctive decoding is designed to change.

    Returns the model on `device`, in eval mode. Scenes, seed and steps determine the weights on the same kind of machine.
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
        with autocast(device), sdpa_kernel(SDPBackend.MATH):
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
    """Returns the symmetric InfoNCE loss of pairs (image i, text i), ignoring texts that are true of another image.

    image_latents, text_latents: [n, d], unit length. truth: bool [texts, images].
    """
    logits = scale.float() * text_latents.float() @ image_latents.float().T
    others = truth & ~torch.eye(len(truth), dtype=torch.bool, device=truth.device)
    logits = logits.masked_fill(others, float("-inf"))
    pairs = torch.arange(len(logits), device=logits.device)
    return (cross_entropy(logits, pairs) + cross_entropy(logits.T, pairs)) / 2
