"""Prints the models of a run in one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pseudo_ris.config import EMBEDDED_NAME, RANDOM


def announce_models(configs: Mapping[str, Any], device: object) -> None:
    """Says in one line which models run where, and for the embedded ones how to get to real weights and own images."""
    models = ", ".join(f"{name} {config.architecture}" for name, config in configs.items())
    print(f"models: {models} on {device}", end="")
    kinds = {config.weights for config in configs.values()}
    if EMBEDDED_NAME in kinds:
        print(" (embedded demo weights, trained on drawn scenes; real weights: configs/default.yaml, own images: --images DIR)")
    else:
        print(" (random weights: a dry run, its results mean nothing)" if RANDOM in kinds else "")
