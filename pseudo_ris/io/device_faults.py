"""Classifies device errors: out of memory, or a device that this process can no longer use.

PyTorch is looked at only where it is loaded: without it no error is a device's.
"""

from __future__ import annotations

import os
import sys

SHORT_OF_MEMORY = (
    "out of memory",
    "not enough memory",  # of PyTorch's allocator for the CPU
    "can't allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",  # cuBLAS found no memory for its handle
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_NOT_SUPPORTED",  # no algorithm of cuDNN whose workspace fits
)
"""Texts of RuntimeErrors that mean, or nearly always mean, a lack of memory."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether device or host memory ran out, in any of the forms in which PyTorch reports it."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in SHORT_OF_MEMORY)


def release_cached_memory() -> None:
    """Gives the GPU memory that PyTorch keeps for later tensors back, so that cuBLAS, cuDNN and other processes can have it."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def gpu_failure() -> str | None:
    """What is wrong with this process's GPU for good; None when it works, or none is used.

    After an illegal memory access or a failed device-side assertion each further call of CUDA fails in that process, while a
    wrong argument leaves CUDA usable: only another call tells them apart.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        of = f" of CUDA_VISIBLE_DEVICES={seen}" if seen else ""
        return f"GPU cuda:{torch.cuda.current_device()}{of} failed ({first_line(error)})"
    return None


def first_line(error: BaseException) -> str:
    """The first line of an error's text."""
    return (str(error).splitlines() or [type(error).__name__])[0]
