"""The MaskRIS of the golden files: its size and its weights (golden/released_maskris/README.md)."""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import replace
from pathlib import Path

import torch

from pseudo_ris.ris.models.maskris.model import MaskRis
from pseudo_ris.ris.models.maskris.sizes import SMALL
from pseudo_ris.ris.models.maskris.swin import TABLE
from pseudo_ris.ris.models.maskris.tokenizer import BertWords, read_vocabulary

GOLDEN = Path(__file__).parent / "golden" / "released_maskris"
SEED = 1
SIZE = replace(SMALL, swin_depths=(2, 2, 6, 2), drop_path=0.0, dropout=0.0)
STANDARD_NORMAL = (
    *("sampling_offsets.bias", "word_embeddings.weight", "position_embeddings.weight", "token_type_embeddings.weight"),
    *("lang_prompts.weight", "vis_prompts.weight", "level_encoding.weight"),
)


def golden(name: str) -> dict | list:
    return json.loads((GOLDEN / name).read_text())


NAMES: dict[str, str] = {name: own for name, own in golden("names.json").items() if own}
"""Name of a parameter in the release -> its name here."""


def recipe_words() -> BertWords:
    return BertWords(read_vocabulary(GOLDEN / "vocab.txt"), 20, keep_end=False)


def untrained_model() -> MaskRis:
    """With the weights that a training without published ones starts from."""
    torch.manual_seed(SEED)
    return MaskRis(SIZE, 7, recipe_words(), 224)


def load_recipe(model: MaskRis, window: int) -> None:
    """Fills the model with the golden weights for windows of this size."""
    state = model.state_dict()
    for name, own in NAMES.items():
        shape = state[own].shape
        state[own] = weight(name, ((2 * window - 1) ** 2, shape[1]) if name.endswith(TABLE) else shape)
    model.load_state_dict(state)


def drawn(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(f"{SEED}/{name}".encode())))


def weight(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    values = drawn(name, shape)
    if name.endswith(TABLE):
        return 0.3 * values
    if name.endswith(STANDARD_NORMAL):
        return values
    if ".gamma_" in name or (len(shape) == 1 and name.endswith(".weight")):
        return 1 + 0.1 * values
    if len(shape) == 1:
        return 0.1 * values
    return values * (_gain(name) * math.prod(shape[1:]) ** -0.5)


def _gain(name: str) -> float:
    if name.endswith("sampling_offsets.weight"):
        return 0.5
    if name == "pixel_decoder.lang_embed.4.weight":
        return 3.0
    return 0.4 if name.startswith("pixel_decoder.") and name.endswith(("out_proj.weight", "lang_mlp.fc2.weight")) else 1.0
