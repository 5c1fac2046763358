"""Device memory as the CPU sees it: a pretended GPU's memory is host memory under an address that both use."""

from __future__ import annotations

import torch

CPU = torch.device("cpu")


def host_view(tensor: torch.Tensor) -> torch.Tensor:
    """The same memory as a CPU tensor, of the same shape, strides and dtype. A CPU tensor is returned as it is."""
    if tensor.device.type != "cuda":
        return tensor
    storage = tensor.untyped_storage()
    size = storage.nbytes()
    memory = torch._C._construct_storage_from_data_pointer(storage.data_ptr(), CPU, size) if size else torch.UntypedStorage(0)
    return torch.empty(0, dtype=tensor.dtype).set_(memory, tensor.storage_offset(), tensor.size(), tensor.stride())


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A copy of a CPU tensor in the device's memory, with the same strides."""
    copy = torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device=device)
    if tensor.numel():
        host_view(copy).copy_(tensor)
    return copy
