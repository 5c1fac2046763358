"""What only a real GPU shows: an assertion that fails in a kernel, TF32, memory that is really freed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pretended_gpu.runtime import LIBRARY

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(LIBRARY in os.environ, reason="a pretended GPU runs no kernels")]

# In a process of its own, whose CUDA is unusable at the end.
CODE = """
import os
import torch
from torch import nn
from torch.nn.functional import conv2d

from pseudo_ris.io.device import pick_device
from pseudo_ris.io.device_faults import gpu_failure, is_out_of_memory
from pseudo_ris.models.offload import HostWeights

device = pick_device("cuda:0", allow_tf32=False)
image, weight = torch.randn(1, 256, 32, 32, device=device), torch.randn(256, 256, 3, 3, device=device)
exact = conv2d(image.double(), weight.double())
error = ((conv2d(image, weight) - exact).abs().max() / exact.abs().max()).item()
assert error < 1e-5, f"fp32 convolutions are {error} off: TF32"

model = nn.Linear(4096, 4096).to(device)
x = torch.randn(8, 4096, device=device)
before, memory = model(x), torch.cuda.memory_allocated()
weights = HostWeights(model)
weights.take_off()
assert torch.cuda.memory_allocated() <= memory - 4096 * 4096 * 4
weights.bring_back()
assert torch.equal(model(x), before)

try:
    torch.empty(2**46, dtype=torch.uint8, device=device)
except RuntimeError as error:
    assert is_out_of_memory(error), error
else:
    raise AssertionError("64 TiB")
assert gpu_failure() is None

try:
    x[torch.tensor([10**6], device=device)].cpu()
except RuntimeError as error:
    assert not is_out_of_memory(error), error
assert "device-side assert" in gpu_failure()
print("all as said", flush=True)
os._exit(0)
"""


def test_a_real_gpu_says_what_is_expected_of_it():
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "all as said", done.stderr
