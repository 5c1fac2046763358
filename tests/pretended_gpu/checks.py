"""The checks of devices that CUDA's operators make before they launch a kernel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from tests.pretended_gpu.waits import project_line

MISMATCHES: list[str] = []
"""Each refused mix of devices, with the line of the project; also those whose exception the program caught."""

COPIES = {"copy_", "_copy_from", "_copy_from_and_resize"}
"""Operators between devices."""

INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}
"""Operators whose indices, a list in their second argument, may be on the CPU: torch copies them to the device."""

CPU_SCALAR_OPERATORS = {
    "masked_fill", "masked_fill_", "fill_", "index_fill", "index_fill_", "index_put_", "_index_put_impl_",
    "_foreach_mul", "_foreach_mul_", "_foreach_add_", "_foreach_div_",
}  # fmt: skip
"""Operators that take a CPU tensor without dimensions, besides all that are tagged as pointwise."""


def common_device(
    name: str, arguments: Sequence[object], tensors: Iterable[torch.Tensor], pointwise: bool
) -> torch.device | None:
    """The CUDA device of an operator's tensors, None where none is on one.

    name: the operator's, without namespace and overload. arguments: its positional ones. tensors: all that it is given.
    pointwise: whether torch tags it so; its CPU tensors may then be without dimensions.

    Raises:
        RuntimeError: tensors are on devices that the operator does not take together.
    """
    tensors = list(tensors)
    devices = {tensor.device for tensor in tensors if tensor.device.type == "cuda"}
    if name in COPIES:
        return next((tensor.device for tensor in tensors if tensor.device.type == "cuda"), None)
    allowed: set[int] = set()
    if name in INDEXING:
        allowed |= {id(index) for index in arguments[1] if index is not None}  # type: ignore[attr-defined]
    if pointwise or name in CPU_SCALAR_OPERATORS:
        allowed |= {id(tensor) for tensor in tensors if not tensor.dim()}
    on_cpu = {tensor.device for tensor in tensors if tensor.device.type == "cpu" and id(tensor) not in allowed}
    if len(devices | on_cpu) > 1:
        refuse(name, devices | on_cpu)
    return next(iter(devices), None)


def refuse(name: str, devices: Iterable[torch.device]) -> None:
    """Raises torch's error for tensors on different devices."""
    line, found = project_line(), " and ".join(sorted(map(str, devices)))
    MISMATCHES.append(f"{line} {name}: {found}")
    raise RuntimeError(
        f"Expected all tensors to be on the same device, but found at least two devices, {found}! "
        f"(when checking the arguments of {name}, called at {line})"
    )


def check_generator(name: str, generator: torch.Generator) -> None:
    """Raises RuntimeError for a generator that cannot draw on a CUDA device."""
    if generator.device.type == "cpu":
        MISMATCHES.append(f"{project_line()} {name}: CPU generator")
        raise RuntimeError(f"Expected a 'cuda' device type for generator but found 'cpu' ({name}, called at {project_line()})")
    if generator._cdata not in {default._cdata for default in torch.cuda.default_generators}:
        raise NotImplementedError(f"{name}: a pretended GPU draws from the default generator only")
