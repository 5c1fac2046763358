"""Prints the environment: versions, devices, presets, local weights and free disk space.

pseudo-ris info [--json]
"""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from pseudo_ris.assets.data_files import preset_names
from pseudo_ris.checkpoints.manifest import local_path, read_manifest, weights_folder
from pseudo_ris.cli.parsing import CommandParser
from pseudo_ris.io.machine import core_count

LIBRARIES = ("torch", "torchvision", "open_clip_torch", "segment-anything", "transformers", "timm", "ray", "spacy", "numpy")


def main(argv: Sequence[str]) -> int:
    """Prints the facts; returns the exit code."""
    options = make_parser().parse_args(argv)
    facts = gather()
    print(json.dumps(facts, indent=1) if options.json else "\n".join(_lines(facts)))
    return 0


def make_parser() -> CommandParser:
    parser = CommandParser("info", __doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def gather() -> dict[str, Any]:
    """The facts, as JSON holds them. Memory and disk space are bytes; a library that is not installed has the version ""."""
    folder = weights_folder()
    files = [(entry.name, local_path(entry, folder)) for entry in read_manifest().files.values()]
    places = {place.stat().st_dev: place for place in (_existing(folder), Path.cwd())}
    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return {
        "pseudo_ris": _version("pseudo-ris"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "cores": core_count(),
        "gpus": [{"name": gpu.name, "memory": gpu.total_memory} for gpu in gpus],
        "cuda": torch.version.cuda or "",
        "presets": preset_names(),
        "weights_folder": str(folder),
        "weights": {name: str(path) if path.is_file() else "" for name, path in files},
        "free_disk": {str(place): shutil.disk_usage(place).free for place in places.values()},
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _existing(folder: Path) -> Path:
    """`folder`, or the nearest folder above it that exists."""
    return next(place for place in (folder, *folder.absolute().parents) if place.is_dir())


def _lines(facts: dict[str, Any]) -> list[str]:
    gpus = [f"{gpu['name']}, {gpu['memory'] / 2**30:.0f} GiB" for gpu in facts["gpus"]] or ["none found"]
    at_hand = [name for name, path in facts["weights"].items() if path]
    missing = [name for name, path in facts["weights"].items() if not path]
    rows = [
        ("pseudo-ris", facts["pseudo_ris"]),
        ("Python", f"{facts['python']}, {facts['platform']}"),
        *((name, version or "not installed") for name, version in facts["libraries"].items()),
        ("CPU cores", facts["cores"]),
        *(("GPU", gpu) for gpu in gpus),
        ("CUDA of torch", facts["cuda"] or "none (CPU build)"),
        ("presets", ", ".join(facts["presets"])),
        ("weights folder", facts["weights_folder"]),
        ("weights at hand", ", ".join(at_hand) or "none; the preset demo needs none"),
        ("weights missing", ", ".join(missing) or "none"),
        *((f"free in {place}", f"{free / 2**30:,.0f} GiB") for place, free in facts["free_disk"].items()),
    ]
    width = max(len(name) for name, _ in rows)
    return [f"{name:{width}}  {value}" for name, value in rows]
