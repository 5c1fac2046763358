"""A device that breaks: from one operator on, every call reports the error that a fault inside a kernel leaves behind."""

from __future__ import annotations

import os

import torch

from tests.pretended_gpu.runtime import loaded_runtime
from tests.pretended_gpu.settings import Settings

DEVICE_SIDE_ASSERT = 710  # cudaErrorAssert


class Fault:
    """Breaks this process's devices at operator `break_at` of the settings, for good."""

    def __init__(self, settings: Settings) -> None:
        spared = settings.break_gpu and settings.break_gpu != os.environ.get("CUDA_VISIBLE_DEVICES", "")
        self._at = 0 if spared else settings.break_at
        self._operators = 0

    def before_operator(self) -> None:
        """Raises torch.AcceleratorError from that operator on."""
        self._operators += 1
        if self._at and self._operators >= self._at:
            loaded_runtime().pretended_break(DEVICE_SIDE_ASSERT)
            torch.cuda.synchronize()  # raises as torch does where it checks a launch
