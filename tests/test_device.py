"""Where models run and what memory they take."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from pseudo_ris.device import DTYPES, in_precision, peak_memory, pick_device, weight_dtype
from pseudo_ris.errors import UserError


def test_devices_by_name():
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(UserError, match="--device gpu: not a device"):
        pick_device("gpu")


def test_some_parameters_stay_in_single_precision():
    model = in_precision(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), "bf16", "1.weight")
    assert [parameter.dtype for parameter in model.parameters()] == [
        torch.bfloat16,
        torch.bfloat16,
        torch.float32,
        torch.bfloat16,
    ]


def test_dtypes_of_weights_by_setting_and_device():
    dtypes = {name: (weight_dtype(name, "cpu"), weight_dtype(name, "cuda:1")) for name in (*DTYPES, "autocast", "fp16_on_cuda")}
    assert dtypes == {
        "fp32": (torch.float32, torch.float32),
        "bf16": (torch.bfloat16, torch.bfloat16),
        "fp16": (torch.float16, torch.float16),
        "autocast": (torch.float32, torch.float32),
        "fp16_on_cuda": (torch.float32, torch.float16),
    }


@pytest.mark.slow
def test_the_peak_is_of_this_process_and_stays_when_memory_is_given_back():
    code = (
        "import torch; from pseudo_ris.device import *; x = torch.ones(2**28); del x; print(peak_memory(torch.device('cpu')))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    amount, unit = shown.split()
    assert unit == "GiB"
    assert 1.0 < float(amount) < 3.0
    assert peak_memory(torch.device("cpu")).endswith(" GiB")
