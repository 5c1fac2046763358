"""Where models run and what memory they take."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from pseudo_ris.errors import DeviceError, UserError
from pseudo_ris.io.device import DTYPES, in_precision, peak_memory, pick_device, weight_dtype


def test_devices_by_name():
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(UserError, match="--device gpu: not a device"):
        pick_device("gpu")


def test_gpus_that_are_not_there_are_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    made_current = []
    monkeypatch.setattr("torch.cuda.set_device", made_current.append)
    with pytest.raises(UserError, match="--device cuda:7: there is no such GPU; give cuda:0 to cuda:1"):
        pick_device("cuda:7")
    assert not made_current
    assert pick_device("cuda:1") == torch.device("cuda", 1)
    assert made_current == [torch.device("cuda", 1)]
    assert pick_device("cuda") == torch.device("cuda")
    assert len(made_current) == 1


def test_a_gpu_that_does_not_answer_is_a_device_error(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)

    def fail(device):
        raise torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered\nmore")

    monkeypatch.setattr("torch.cuda.set_device", fail)
    with pytest.raises(DeviceError, match="--device cuda:0: CUDA error: uncorrectable ECC error encountered"):
        pick_device("cuda:0")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(DeviceError, match="--device cuda: this machine or this torch has no CUDA"):
        pick_device("cuda")


@pytest.fixture
def tf32():
    """Whether TF32 is allowed in convolutions and in products; both are restored."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    yield lambda: (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def test_tf32_is_used_where_it_is_allowed_only(tf32):
    before = tf32()
    pick_device("cpu")
    assert tf32() == before
    for allowed in (True, False):
        pick_device("cpu", allow_tf32=allowed)
        assert tf32() == (allowed, allowed)


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
    work = "x = torch.ones(2**28); del x; print(peak_memory(torch.device('cpu')))"
    code = f"import torch; from pseudo_ris.io.device import peak_memory; {work}"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    amount, unit = shown.split()
    assert unit == "GiB"
    assert 1.0 < float(amount) < 3.0
    assert peak_memory(torch.device("cpu")).endswith(" GiB")
