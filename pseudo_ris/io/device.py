"""Devices, precisions and peak memory of models."""

from __future__ import annotations

import ctypes
import resource
import sys
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from pseudo_ris.errors import DeviceError, UserError
from pseudo_ris.io.device_faults import first_line

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Values of a `precision` setting that give the weights the same dtype on every device."""
# Names of glibc's malloc.h: how much free memory is kept, and how many blocks may be fetched one by one.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4

Model = TypeVar("Model", bound=nn.Module)

without_cudnn_attention = sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])
"""Decorator for code whose attentions have ever new shapes. In half precision, torch prefers cuDNN's attention on compute
capability 9.0 and 10.0, and that one builds a plan for each new shape."""


def pick_device(name: str, allow_tf32: bool | None = None) -> torch.device:
    """torch device of a `device` setting; "auto" is CUDA when there is one, else the CPU.

    From here on the process keeps the memory it frees (see `keep_freed_memory`), and a GPU that is named by its number is
    CUDA's current device. allow_tf32: whether fp32 products and convolutions may use TF32; None leaves PyTorch's choice, which
    allows it in convolutions.
    Raises UserError when there is no such device, DeviceError when it does not answer.
    """
    keep_freed_memory()
    if allow_tf32 is not None:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allow_tf32
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--device {name}: not a device; give auto, cpu, cuda or cuda:0") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError(f"--device {name}: this machine or this torch has no CUDA; give auto or cpu")
    if device.index is not None and device.type == "cuda":
        _make_current(device)
    return device


def on_device(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A CPU tensor on a device. The host does not wait for a GPU, as it does in a copy from memory that is not pinned."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values


def _make_current(gpu: torch.device) -> None:
    """Has this process's CUDA calls that name no device go to a certain one."""
    count = torch.cuda.device_count()
    if gpu.index >= count:
        there = "cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        raise UserError(f"--device {gpu}: there is no such GPU; give {there} (CUDA_VISIBLE_DEVICES chooses which are seen)")
    try:
        torch.cuda.set_device(gpu)
    except RuntimeError as error:
        raise DeviceError(f"--device {gpu}: {first_line(error)}; choose another GPU, or cpu") from error


def keep_freed_memory() -> None:
    """Has glibc hold on to freed memory for the next tensor; other C libraries are left alone.

    It would give large blocks back to the system at once, and fetching them again page by page, zeroed, took a tenth of the
    time of decoding 64 masks on a CPU. The peak stays the same.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        library.mallopt(M_TRIM_THRESHOLD, -1)
        library.mallopt(M_MMAP_MAX, 0)


def weight_dtype(precision: str, device: torch.device | str) -> torch.dtype:
    """dtype of a model's weights on `device` under a `precision` setting.

    "autocast" keeps them in fp32 (see `CocaCaptioner.autocast`); "fp16_on_cuda" has them in fp16 on a GPU and in fp32 on a CPU.
    """
    if precision == "autocast":
        return torch.float32
    if precision == "fp16_on_cuda":
        return torch.float16 if torch.device(device).type == "cuda" else torch.float32
    return DTYPES[precision]


def in_precision(model: Model, precision: str, *kept: str, device: torch.device | str = "cpu") -> Model:
    """`model` with its weights in the dtype that a `precision` setting gives them on `device` (see `weight_dtype`).

    kept: names of parameters that stay in fp32.
    """
    single = {name: model.get_parameter(name).data for name in kept}
    model.to(weight_dtype(precision, device))
    for name, data in single.items():
        model.get_parameter(name).data = data
    return model


def peak_memory(device: torch.device) -> str:
    """The most memory this process has had so far, for a person: "5.2 GiB", on a GPU "5.2 GiB, GPU 7.9 GiB"."""
    host = f"{peak_host_bytes() / 2**30:.1f} GiB"
    return f"{host}, GPU {torch.cuda.max_memory_reserved(device) / 2**30:.1f} GiB" if device.type == "cuda" else host


def peak_host_bytes() -> int:
    """The most host memory this process has had so far."""
    status = Path("/proc/self/status")  # unlike getrusage's, this peak does not begin with the parent process's
    if status.is_file() and "VmHWM" in (text := status.read_text()):
        return int(text.split("VmHWM:")[1].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
