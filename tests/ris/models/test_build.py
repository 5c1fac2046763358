"""From settings to a model: what the seed decides, and packages that are not there."""

from __future__ import annotations

import sys

import pytest
import torch

from pseudo_ris.errors import UserError
from pseudo_ris.ris.config import ModelConfig
from pseudo_ris.ris.models.build import build_empty, build_model

CLIP = ModelConfig(image_weights="none", input_size=32)
MASKRIS = ModelConfig("maskris", "tiny", image_weights="none", input_size=32)


@pytest.mark.parametrize("config", [CLIP, MASKRIS], ids=["clip", "maskris"])
def test_the_seed_decides_what_is_drawn_and_torch_s_random_state_stays(config):
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    first, same, other = (build_model(config, seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("config", [CLIP, MASKRIS], ids=["clip", "maskris"])
def test_an_empty_model_takes_the_weights_of_one_that_was_built(config):
    built = build_model(config, seed=3)
    empty = build_empty(config, built.pieces)
    empty.load_state_dict(built.state_dict())
    assert empty.pieces == built.pieces
    assert empty.training and built.training


@pytest.mark.parametrize("package", ["timm", "transformers", "tokenizers"])
def test_a_missing_package_is_one_line_with_the_remedy(package, monkeypatch):
    for module in [name for name in sys.modules if name.startswith(("pseudo_ris.ris.models.maskris", f"{package}."))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"^{package} is not installed; run: pip install .*\[train\]") as caught:
        build_model(MASKRIS, seed=0)
    assert "\n" not in str(caught.value)
