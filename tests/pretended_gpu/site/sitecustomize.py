"""Python imports this at its start where this folder is on its path: a process that is started pretends, too."""

import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Sequence
from types import ModuleType


class PretendAfterImport(importlib.abc.MetaPathFinder):
    """Replaces the kernels of torch and torchvision right after they are imported."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in ("torch", "torchvision"):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_pretend(module: ModuleType) -> None:
            execute(module)
            from tests.pretended_gpu import kernels

            if name == "torch":
                kernels.start()
            else:
                kernels.install("torchvision")

        spec.loader.exec_module = execute_and_pretend  # type: ignore[method-assign]
        return spec


if "PRETEND_LIBRARY" in os.environ:
    sys.meta_path.insert(0, PretendAfterImport())
