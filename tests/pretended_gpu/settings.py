"""Settings of the pretended GPU: environment variables, so that every process that is started inherits them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

PREFIX = "PRETEND_"
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Settings:
    """What is pretended. Each field is the environment variable PRETEND_<FIELD>; the C runtime reads the first four itself.

    gpus: number of devices; CUDA_VISIBLE_DEVICES restricts them as usual. gpu_mib: memory of each device in MiB.
    sm: compute capability, 90 for 9.0. poison: 1 fills fresh device memory with NaN.
    break_at: number of the operator from which on the device is broken, as by a device-side assert; 0: never.
    break_gpu: only processes whose CUDA_VISIBLE_DEVICES equals it break. project: folder whose innermost line a wait is
    ascribed to. report: folder into which each process writes its counts as <pid>.json when it ends.
    """

    gpus: int = 1
    gpu_mib: int = 81920
    sm: int = 90
    poison: int = 0
    break_at: int = 0
    break_gpu: str = ""
    project: str = str(ROOT)
    report: str = ""

    @classmethod
    def from_environment(cls) -> Settings:
        """Reads the settings of this process."""
        given = {f.name: os.environ.get(PREFIX + f.name.upper(), "") for f in fields(cls)}
        return cls(**{f.name: type(f.default)(given[f.name]) for f in fields(cls) if given[f.name]})


def as_environment(settings: Mapping[str, object]) -> dict[str, str]:
    """The environment variables for settings named without the prefix, e.g. {"GPUS": 2}.

    Raises:
        ValueError: a setting that does not exist.
    """
    known = {f.name.upper() for f in fields(Settings)}
    unknown = sorted(set(settings) - known)
    if unknown:
        raise ValueError(f"no settings of the pretended GPU: {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    return {PREFIX + name: str(value) for name, value in settings.items()}
