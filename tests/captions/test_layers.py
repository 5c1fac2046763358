"""Products with weights laid out once."""

import pytest
import torch

from pseudo_ris.captions import layers
from pseudo_ris.captions.layers import Product


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
