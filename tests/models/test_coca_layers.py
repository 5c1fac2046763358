"""Products with weights laid out once."""

import pytest
import torch
from coca_oracle import random_captioner
from open_clip.transformer import QuickGELU
from torch import nn

from pseudo_ris.models.coca import layers
from pseudo_ris.models.coca.layers import Product


@pytest.fixture(autouse=True, params=[0, layers.BLOCKED_SIZE], ids=["blocked", "plain"])
def size(request, monkeypatch):
    monkeypatch.setattr(layers, "BLOCKED_SIZE", request.param)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [1, 7, 300])
@torch.inference_mode()
def test_is_a_product(rows, dtype):
    x, weight, bias = (torch.randn(size).to(dtype) for size in ((rows, 24), (40, 24), (40,)))
    expected = x.double() @ weight.double().T
    tolerance = 1e-5 if dtype == torch.float32 else 0.1
    for found, exact in ((Product(weight)(x), expected), (Product(weight, bias)(x), expected + bias.double())):
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), exact, atol=tolerance, rtol=0.01)


@torch.inference_mode()
def test_a_transposed_weight():
    weight = torch.randn(24, 40)
    torch.testing.assert_close(Product(weight.T)(weight[:, 0][None]), weight[:, 0][None] @ weight)


@pytest.mark.parametrize("activation", [nn.GELU(), nn.GELU("tanh"), QuickGELU()], ids=["gelu", "tanh", "quick"])
@torch.inference_mode()
def test_with_an_activation(activation):
    x, weight, bias = (4 * torch.randn(size) for size in ((50, 24), (40, 24), (40,)))
    expected = activation((x.double() @ weight.double().T + bias).float())
    torch.testing.assert_close(Product(weight, bias, activation)(x), expected, atol=2e-5, rtol=1e-4)


@torch.inference_mode()
def test_a_block_is_the_same_in_parts(monkeypatch):
    block = layers.Block(random_captioner(3).model.text.transformer.resblocks[0], False)
    hidden, mixed = torch.randn(2, 23, 32)
    whole = block.finish(hidden, mixed)
    monkeypatch.setattr(layers, "ENTRIES_AT_ONCE", 5)
    torch.testing.assert_close(block.finish(hidden, mixed), whole)
