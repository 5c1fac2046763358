"""Shorter starts: libraries are not loaded when another library imports them and no command uses them.

torchvision and timm import torch's compiler, and open_clip imports transformers; together they take half of the time in which a
stage starts. Imports nothing heavy.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

COMPILER = "torch._dynamo.utils"
TRANSFORMERS = "transformers"

Around = Callable[[], AbstractContextManager[None]]


def defer_compiler() -> None:
    """From now on, importing torchvision and timm does not load torch's compiler; it is loaded at its first use."""
    _Finder.install({"torchvision.ops.roi_align": _lazy_compiler, "timm": _lazy_disable})


def leave_out_transformers() -> None:
    """From now on, open_clip does not load transformers, so its text towers from Hugging Face are not available.

    For processes of this package only: a caller of the library may use these towers.
    """
    _Finder.install({"open_clip.hf_model": _no_transformers, "open_clip.coca_model": _no_transformers})


class _Finder(MetaPathFinder):
    """Finds modules as usual, and has some of them imported inside a context manager."""

    def __init__(self) -> None:
        self.around: dict[str, Around] = {}

    @classmethod
    def install(cls, around: dict[str, Around]) -> None:
        finder = next((each for each in sys.meta_path if isinstance(each, cls)), None)
        if finder is None:
            finder = cls()
            sys.meta_path.insert(0, finder)
        finder.around |= around

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name in self.around else None
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self.around[name])
        return spec


class _Loader(Loader):
    """Another loader, whose `exec_module` runs inside a context manager."""

    def __init__(self, loader: Loader, around: Around) -> None:
        self._loader, self._around = loader, around

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__.loader = module.__loader__ = self._loader
        with self._around():
            self._loader.exec_module(module)


@contextmanager
def _lazy_compiler() -> Iterator[None]:
    """Replaces the compiler's module by one with the function that torchvision takes from it, which loads it when called."""

    def is_compile_supported(*arguments: Any) -> bool:
        from torch._dynamo.utils import is_compile_supported

        return is_compile_supported(*arguments)

    if COMPILER in sys.modules:
        yield
        return
    stand_in = ModuleType(COMPILER)
    stand_in.is_compile_supported = is_compile_supported
    sys.modules[COMPILER] = stand_in
    try:
        yield
    finally:
        if sys.modules.get(COMPILER) is stand_in:
            del sys.modules[COMPILER]


@contextmanager
def _lazy_disable() -> Iterator[None]:
    """Replaces torch.compiler.disable by the decorator that torch itself uses, which loads the compiler when called."""
    import torch

    kept = torch.compiler.disable
    torch.compiler.disable = torch._disable_dynamo
    try:
        yield
    finally:
        torch.compiler.disable = kept


@contextmanager
def _no_transformers() -> Iterator[None]:
    """Makes `import transformers` fail, unless it is loaded already."""
    if TRANSFORMERS in sys.modules:
        yield
        return
    sys.modules[TRANSFORMERS] = None
    try:
        yield
    finally:
        del sys.modules[TRANSFORMERS]
