"""Python imports this first in each process that has this folder on its path: the kernels follow when torch is imported."""

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from types import ModuleType


class InstallAfterTorch(importlib.abc.MetaPathFinder):
    """Installs the pretended kernels right after torch's own import."""

    def find_spec(self, name: str, path: object, target: ModuleType | None = None) -> importlib.machinery.ModuleSpec | None:
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec("torch")
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_install(module: ModuleType) -> None:
            execute(module)
            from tests.pretended_gpu.kernels import install

            install()

        spec.loader.exec_module = execute_and_install  # type: ignore[method-assign]
        return spec


if "PRETEND_LIBRARY" in os.environ:
    sys.meta_path.insert(0, InstallAfterTorch())
