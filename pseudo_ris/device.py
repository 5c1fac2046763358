"""Where models run."""

from __future__ import annotations

import torch

from pseudo_ris.errors import UserError


def pick_device(name: str) -> torch.device:
    """torch device of a `device` setting; "auto" is CUDA when there is one, else the CPU. Raises UserError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--device {name}: not a device; give auto, cpu, cuda or cuda:0") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device {name}: this machine or this torch has no CUDA; give auto or cpu")
    return device
