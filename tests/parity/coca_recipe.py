"""The small CoCa of the golden files: configuration and reproducible weights (golden/distinctive_sampling/README.md)."""

import json
import zlib
from math import prod
from pathlib import Path

import torch
from open_clip.coca_model import CoCa
from open_clip.tokenizer import SimpleTokenizer

from pseudo_ris.models.coca.captioner import CocaCaptioner

GOLDEN = Path(__file__).parent / "golden"


def recipe_captioner() -> CocaCaptioner:
    model = CoCa(**json.loads((GOLDEN / "distinctive_sampling" / "coca_config.json").read_text()))
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point() and value.ndim and not name.endswith("attn_mask"):
                value.copy_(_weight(name, tuple(value.shape)))
    return CocaCaptioner(model, SimpleTokenizer())


def _weight(name, shape):
    if name.endswith("bias"):
        return torch.zeros(shape)
    if "ln_" in name or ".ln" in name:
        return torch.ones(shape)
    into_output = "projection" in name or name.endswith(".proj")
    fan = shape[0] if into_output else prod(shape[1:] if len(shape) > 2 else shape[-1:])
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode()))) * fan**-0.5
    return weight * 2.5 if name == "text_decoder.text_projection" else weight
