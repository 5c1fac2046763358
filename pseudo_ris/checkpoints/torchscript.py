"""Weights out of TorchScript archives, as OpenAI publishes CLIP, without running anything that is in them.

Such an archive is a zip: `data.pkl` is a pickle of the module tree, `data/N` are the storages that its tensors view, `code/` is
the source of the module classes. torch.jit.load would compile that source. Here only the pickle opcodes that TorchScript writes
are interpreted and nothing is imported by name. Python's own Unpickler, however restricted, is not used: a large memo index
takes all memory, and deeply nested dictionary keys crash the process.
"""

from __future__ import annotations

import pickletools
import re
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from math import prod
from pathlib import Path
from typing import Any

import torch

from pseudo_ris.checkpoints.torch_files import check_sizes
from pseudo_ris.errors import UserError

DTYPES = {
    "torch BFloat16Storage": torch.bfloat16,
    "torch BoolStorage": torch.bool,
    "torch ByteStorage": torch.uint8,
    "torch CharStorage": torch.int8,
    "torch DoubleStorage": torch.float64,
    "torch FloatStorage": torch.float32,
    "torch HalfStorage": torch.float16,
    "torch IntStorage": torch.int32,
    "torch LongStorage": torch.int64,
    "torch ShortStorage": torch.int16,
}
# Far above what real models have: they bound what a hostile archive can take in time and memory.
MAX_TEXT = 1 << 24  # bytes of data.pkl, or of one source file
MAX_ATTRIBUTES = 200_000
MAX_NAME = 1000
MAX_DIMENSIONS = 16
# Head of a module class as TorchScript prints it: name, parameters, buffers.
CLASS_HEAD = re.compile(r"^class (\w+)\(Module\):\n +__parameters__ = \[(.*)\]\n +__buffers__ = \[(.*)\]$", re.MULTILINE)


def is_torchscript_archive(path: Path) -> bool:
    """Whether `path` is a zip with a `data.pkl` and, beside it, a module's code or constants."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # a damaged zip provokes many kinds
        return False
    root = _root(names)
    return root is not None and any(name.startswith((f"{root}code/", f"{root}constants.pkl")) for name in names)


def read_torchscript_state(path: Path) -> dict[str, torch.Tensor]:
    """Parameters and buffers of the archived module by dotted name, on the CPU: `torch.jit.load(path).state_dict()`.

    Dtypes, shapes, strides and the sharing of storages are the archive's. TorchScript does not tell non-persistent buffers
    from others, so they are included. A class whose source lists no buffers (an old archive) gives all its tensors.
    Raises UserError when the file is damaged, when it holds anything but modules, tensors and plain values, and when a tensor
    reaches out of its storage or has more elements than its storage.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            check_sizes(archive, path)
            reader = _Archive(archive)
            module = _interpret(reader.read("data.pkl", MAX_TEXT), reader.storage)
            return _named_tensors(module, cache(reader.class_tensors))
    except Exception as error:  # a hostile file provokes many kinds
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise UserError(f"{path}: not a readable TorchScript archive ({reason}); download it again") from error


@dataclass
class _Module:
    """A module of the archive. kind: where its class is and its name, for example "__torch__.torch.nn.modules.conv Conv2d"."""

    kind: str
    attributes: dict[str, Any] = field(default_factory=dict)


class _Archive:
    """Bounded reading of the entries in an archive's top folder; nothing is extracted to disk."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive
        self.names = set(archive.namelist())
        self.root = _root(archive.namelist()) or ""
        self.storages: dict[str, torch.Tensor] = {}
        if f"{self.root}byteorder" in self.names and self.read("byteorder", 16).decode() != sys.byteorder:
            raise ValueError("written on a machine of another byte order")

    def read(self, name: str, limit: int) -> bytes:
        """The entry `name`, of at most `limit` bytes, checked against the archive's checksum."""
        entry = self.archive.getinfo(self.root + name)
        if entry.file_size > limit:
            raise ValueError(f"{name[:MAX_NAME]} has {entry.file_size} bytes, more than expected")
        with self.archive.open(entry) as file:
            content = file.read(entry.file_size)  # without the argument, all that is compressed there, however much
        if len(content) != entry.file_size:
            raise ValueError(f"{name[:MAX_NAME]} is cut short")
        return content

    def storage(self, identity: tuple[str, torch.dtype, str, str, int]) -> torch.Tensor:
        """The storage of a persistent id as a tensor [numel]. The device it was saved from is ignored."""
        _, dtype, key, _, numel = identity
        entry = self.archive.getinfo(f"{self.root}data/{key}")
        if entry.compress_type != zipfile.ZIP_STORED or not 0 <= numel * dtype.itemsize <= entry.file_size:
            raise ValueError(f"storage {key} is shorter than its tensors, or compressed")
        if key not in self.storages:
            content = bytearray(self.read(f"data/{key}", entry.file_size))
            self.storages[key] = torch.frombuffer(content, dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)
        return self.storages[key][: numel * dtype.itemsize].view(dtype)

    def class_tensors(self, folder: str) -> dict[str, set[str]]:
        """Class name -> its parameters and buffers as the source of `folder` lists them. The source is only searched."""
        name = f"code/{folder.replace('.', '/')}.py"
        if self.root + name not in self.names:
            return {}
        heads = CLASS_HEAD.findall(self.read(name, MAX_TEXT).decode())
        return {kind: set(re.findall(r'"(.*?)"', parameters + buffers)) for kind, parameters, buffers in heads}


def _root(names: list[str]) -> str | None:
    """The folder of data.pkl, with its slash."""
    return next((name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl")), None)


def _interpret(data: bytes, storage: Callable[[tuple], torch.Tensor]) -> Any:
    """What the pickle `data` describes. storage: turns a persistent id into a tensor.

    Only functions of NAMES and _Module can get on the stack, so nothing else is ever called.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    for opcode, argument, _ in pickletools.genops(data):
        match opcode.name:
            case "PROTO":
                pass
            case "BININT1" | "BININT2" | "BININT" | "LONG1" | "BINFLOAT" | "BINUNICODE" | "NONE":
                stack.append(argument)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode.name == "NEWTRUE")
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "MARK":
                marks.append(len(stack))
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                size = int(opcode.name[-1])
                stack[-size:] = [tuple(stack[-size:])]
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "EMPTY_LIST":
                stack.append([])
            case "APPENDS":
                items = since_mark()
                stack[-1].extend(items)
            case "EMPTY_DICT":
                stack.append({})
            case "SETITEMS":
                items = since_mark()
                if not all(isinstance(key, str | int | float) for key in items[::2]):  # hashing nested tuples can crash
                    raise ValueError("refused: a dictionary key that is no text or number")
                stack[-1].update(zip(items[::2], items[1::2], strict=True))
            case "GLOBAL":
                if not argument.startswith(("__torch__.", "__torch__ ")) and argument not in NAMES:
                    raise ValueError(f"refused: {argument}")
                stack.append(NAMES.get(argument) or partial(_Module, argument))
            case "BINPERSID":
                stack.append(storage(stack.pop()))
            case "REDUCE" | "NEWOBJ":
                arguments = stack.pop()
                stack.append(stack.pop()(*arguments))
            case "BUILD":
                attributes = stack.pop()
                if not isinstance(stack[-1], _Module) or not isinstance(attributes, dict):
                    raise ValueError("refused: an object with a state of its own")
                stack[-1].attributes = attributes
            case "STOP":
                return stack.pop()
            case name:
                raise ValueError(f"refused: the pickle instruction {name}")


def _tensor(storage: torch.Tensor, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any) -> torch.Tensor:
    """A view of `storage` [numel]. Raises ValueError unless all of it lies there and it has no more elements than that."""
    whole = all(type(number) is int and number >= 0 for number in (offset, *shape, *strides))
    if not whole or len(shape) != len(strides) or len(shape) > MAX_DIMENSIONS:
        raise ValueError("refused: a tensor of impossible shape")
    reach = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 1 if prod(shape) else 0
    if offset + reach > len(storage) or prod(shape) > len(storage):
        raise ValueError(f"refused: a tensor {list(shape)} that reaches out of its storage of {len(storage)} elements")
    return storage.as_strided(shape, strides, offset)


def _first(value: Any = None, *_: Any) -> Any:
    """Stands for functions that tag their argument with a type, which does not matter here."""
    return value


# All that a pickle of TorchScript may name, apart from its own classes.
NAMES = {
    **DTYPES,
    "torch._utils _rebuild_tensor_v2": _tensor,
    "collections OrderedDict": _first,  # a tensor's hooks, always empty
    "torch device": _first,
    "torch.jit._pickle restore_type_tag": _first,
    "torch.jit._pickle build_boollist": _first,
    "torch.jit._pickle build_doublelist": _first,
    "torch.jit._pickle build_intlist": _first,
    "torch.jit._pickle build_tensorlist": _first,
}


def _named_tensors(root: Any, class_tensors: Callable[[str], dict[str, set[str]]]) -> dict[str, torch.Tensor]:
    """Tensors of the tree below `root` by dotted name, each module's own before those of its submodules.

    class_tensors: folder of classes -> class name -> which of its tensors count; others are plain attributes.
    """
    if not isinstance(root, _Module):
        raise ValueError(f"holds a {type(root).__name__}, not a module")
    state: dict[str, torch.Tensor] = {}
    pending, seen = [("", root)], 0
    while pending:
        prefix, module = pending.pop()
        folder, _, kind = module.kind.partition(" ")
        counted = class_tensors(folder).get(kind, module.attributes)
        children = []
        seen += len(module.attributes)
        for name, value in module.attributes.items():
            path = prefix + name
            # A module may contain itself, or two of a module that contains two of another, and so on.
            if seen > MAX_ATTRIBUTES or len(path) > MAX_NAME:
                raise ValueError("refused: modules nested without end")
            if isinstance(value, torch.Tensor) and name in counted:
                state[path] = value
            elif isinstance(value, _Module):
                children.append((f"{path}.", value))
        pending += reversed(children)
    return state
