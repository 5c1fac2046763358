"""Replaces each operator's CUDA kernel by one that checks what CUDA checks and computes on the CPU in the same memory."""

from __future__ import annotations

import atexit
import collections
import functools
import warnings
from collections.abc import Callable, Sequence

import torch

from tests.pretended_gpu import attention, special, waits
from tests.pretended_gpu.checks import check_generator, common_device
from tests.pretended_gpu.faults import Fault
from tests.pretended_gpu.memory import CPU, host_view, to_device
from tests.pretended_gpu.report import write_report
from tests.pretended_gpu.settings import Settings

# torch's own CUDA kernels of these stay. They take and give memory, or look at sizes and strides only;
OWN = {
    "empty.memory_format", "empty_strided", "new_empty_strided", "set_", "set_.source_Storage", "set_.source_Tensor",
    "set_.source_Storage_storage_offset", "resize_", "record_stream", "is_pinned", "_pin_memory", "is_set_to", "is_coalesced",
    "_nested_tensor_storage_offsets", "_has_same_storage_numel",
    # these choose among kernels, which are replaced.
    "_fused_sdp_choice", "convolution", "convolution_overrideable", "_convolution",
}  # fmt: skip

OPERATORS: collections.Counter[str] = collections.Counter()
"""How often each replaced operator ran in this process."""

has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key


class CpuKernel:
    """The kernel of one operator that has a CPU kernel, too."""

    def __init__(self, operator: torch._ops.OpOverload) -> None:
        schema = operator._schema
        self._operator = operator
        self._name = schema.name.split("::")[1]
        packet = operator.overloadpacket
        overloads = [getattr(packet, overload) for overload in packet.overloads()]  # those with `out` have no tags
        self._pointwise = any(torch.Tag.pointwise in overload.tags for overload in overloads)
        self._takes_tensor = [isinstance(argument.type, torch.TensorType) for argument in schema.arguments]
        written = {  # arguments that are written to, by the mark that the schema gives them
            frozenset(argument.alias_info.before_set): (place, argument.name)
            for place, argument in enumerate(schema.arguments)
            if argument.alias_info is not None and argument.alias_info.is_write
        }
        # For each result the argument that it is, or None for a new tensor.
        self._results = [
            None if result.alias_info is None else written.get(frozenset(result.alias_info.before_set))
            for result in schema.returns
        ]

    def __call__(self, *arguments: object, **keywords: object) -> object:
        """Runs the operator on the CPU. Raises what CUDA would."""
        tensors: list[torch.Tensor] = []
        on_host = [self._on_host(value, tensors) for value in arguments]
        keywords_on_host = {key: self._on_host(value, tensors) for key, value in keywords.items()}
        device = common_device(self._name, arguments, tensors, self._pointwise) or _asked_device(keywords)
        waits.count_waits(self._name, arguments, keywords)
        results = self._callee(on_host)(*on_host, **keywords_on_host)
        if not self._results:
            return None
        if len(self._results) == 1:
            return self._placed(results, self._results[0], arguments, keywords, device)
        return tuple(
            self._placed(result, source, arguments, keywords, device)
            for result, source in zip(results, self._results, strict=True)
        )

    def _on_host(self, value: object, tensors: list[torch.Tensor]) -> object:
        """An argument for the CPU kernel. Adds the tensors that were given to `tensors`."""
        if isinstance(value, torch.Tensor):
            tensors.append(value)
            return host_view(value)
        if isinstance(value, (list, tuple)):
            return type(value)(self._on_host(item, tensors) for item in value)
        if isinstance(value, torch.Generator):
            check_generator(self._name, value)
            return None  # the CPU's default one: after torch.manual_seed the same numbers as without a GPU
        return CPU if isinstance(value, torch.device) and value.type == "cuda" else value

    def _callee(self, arguments: Sequence[object]) -> Callable:
        """What to call. A number in place of a tensor reaches a Python kernel as a number, which another overload takes."""
        pairs = zip(arguments, self._takes_tensor, strict=False)
        if any(tensor and isinstance(value, (int, float, complex)) for value, tensor in pairs):
            return self._operator.overloadpacket
        return self._operator

    @staticmethod
    def _placed(
        result: object,
        source: tuple[int, str] | None,
        arguments: Sequence[object],
        keywords: dict[str, object],
        device: torch.device,
    ) -> object:
        """A result on the device: the argument that was written to, or a new tensor."""
        if source is not None:
            place, name = source
            argument = keywords[name] if name in keywords else arguments[place]
            if isinstance(argument, torch.Tensor) and argument.shape != result.shape:  # an `out` of another size
                argument.resize_(result.shape)
                host_view(argument).copy_(result)
            return argument
        if isinstance(result, torch.Tensor):
            return to_device(result, device)
        if isinstance(result, (list, tuple)):
            return [to_device(item, device) for item in result]
        return result


def _asked_device(keywords: dict[str, object]) -> torch.device:
    """Where an operator without tensors puts its result."""
    asked = keywords.get("device")
    is_cuda = isinstance(asked, torch.device) and asked.type == "cuda" and asked.index is not None
    return asked if is_cuda else torch.device("cuda", torch.cuda.current_device())


def kernels_of(namespace: str) -> dict[str, Callable]:
    """The kernels to replace, by the full names of their operators, in "aten" or "torchvision"."""
    own = {**special.SPECIAL, **attention.KERNELS}
    found: dict[str, Callable] = {}
    for full_name in torch._C._dispatch_get_all_op_names():
        space, name = full_name.split("::")
        if space != namespace or name in OWN or name.split(".")[0] in OWN:
            continue
        if full_name in own:
            found[full_name] = own[full_name]
        elif (has_kernel(full_name, "CUDA") or name == "copy_") and (operator := _cpu_operator(full_name)) is not None:
            found[full_name] = CpuKernel(operator)
    return found


def _cpu_operator(full_name: str) -> torch._ops.OpOverload | None:
    """An operator that a CPU can compute; None for one that it cannot, and for views: these compute nothing."""
    keys = ("CPU", "CompositeExplicitAutograd", "CompositeExplicitAutogradNonFunctional")
    if not any(has_kernel(full_name, key) for key in keys):
        return None
    space, name = full_name.split("::")
    packet, _, overload = name.partition(".")
    try:
        operator = getattr(getattr(getattr(torch.ops, space), packet), overload or "default")
    except AttributeError:  # not visible from Python
        return None
    results = operator._schema.returns
    is_view = any(result.alias_info is not None and not result.alias_info.is_write for result in results)
    return None if is_view else operator


_libraries: list[torch.library.Library] = []  # a kernel is registered as long as its library lives


def install(namespace: str) -> None:
    """Replaces the CUDA kernels of "aten" or "torchvision"."""
    library = torch.library.Library(namespace, "IMPL")
    _libraries.append(library)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(?s).*[Oo]verriding a previously registered kernel")
        for full_name, kernel in kernels_of(namespace).items():
            name = full_name.split("::")[1]
            library.m.impl(name, "CUDA", _counted(name.split(".")[0], kernel))  # Library.impl refuses to replace


def _counted(name: str, kernel: Callable) -> Callable:
    """`kernel` with what each call of an operator begins with."""

    @functools.wraps(kernel, updated=())
    def run(*arguments: object, **keywords: object) -> object:
        OPERATORS[name] += 1
        FAULT.before_operator()
        if not isinstance(kernel, CpuKernel):
            waits.count_waits(name, arguments, keywords)
        return kernel(*arguments, **keywords)

    return run


FAULT = Fault(Settings.from_environment())


def start() -> None:
    """Makes this process pretend; to be called once, right after torch was imported."""
    install("aten")
    waits.count_runtime_waits()
    atexit.register(waits.stop_counting_runtime_waits)
    folder = Settings.from_environment().report
    if folder:
        atexit.register(lambda: write_report(folder, sum(OPERATORS.values())))
