"""Trains the four embedded models on drawn scenes (`pseudo-ris lab train`)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch

from pseudo_ris.checkpoints.weights import load_weights, save_weights
from pseudo_ris.io.device import pick_device
from pseudo_ris.lab.train_clip import train_clip
from pseudo_ris.lab.train_coca import train_coca
from pseudo_ris.lab.train_cutler import train_cutler
from pseudo_ris.lab.train_sam import train_sam
from pseudo_ris.models.cutler.cascade_rcnn import ARCHITECTURES, CascadeMaskRCNN
from pseudo_ris.world.scene_set import SceneSet, build_scene_set

ORDINARY_SCENES = 4500
FREE_SCENES = 3000
# Models that train one after the other in one process: SAM starts from the trained CutLER.
CHAINS = (("cutler", "sam"), ("coca", "clip"))
MODELS = tuple(name for chain in CHAINS for name in chain)


def train_model(name: str, scenes: Path, out: Path, seed: int, steps: int | None, device: str) -> None:
    """Trains one model on the scene sets in `scenes` and writes `<out>/<name>.safetensors`.

    SAM starts from `<out>/cutler.safetensors`.
    """
    started = time.monotonic()
    ordinary, free = (SceneSet.load(scenes / kind) for kind in ("ordinary", "free"))
    where = pick_device(device)
    if name == "cutler":
        model = train_cutler([ordinary, free], seed, steps, where)
    elif name == "sam":
        detector = load_weights(CascadeMaskRCNN(ARCHITECTURES["demo"]), out / "cutler.safetensors", "cutler (demo)")
        model = train_sam([ordinary, free], detector, seed, steps, where)
    else:
        model = {"coca": train_coca, "clip": train_clip}[name](ordinary, seed, steps, where)
    save_weights(model, out / f"{name}.safetensors", {"model": name, "architecture": "demo", "seed": str(seed)})
    print(f"{out / name}.safetensors: trained in {time.monotonic() - started:.0f} s")


def train_chain(scenes: Path, out: Path, seed: int, steps: int | None, device: str, names: Sequence[str]) -> None:
    """Calls `train_model` for each name in turn, on one thread."""
    torch.set_num_threads(1)
    for name in names:
        train_model(name, scenes, out, seed, steps, device)


def draw_training_scenes(folder: Path, seed: int, ordinary: int, free: int, workers: int) -> None:
    """Draws the two training sets into `folder`: ordinary scenes, and scenes with free forms for the models of stage 1."""
    build_scene_set("train", seed, ordinary, workers=workers).save(folder / "ordinary")
    build_scene_set("train", seed, free, free_forms=True, workers=workers).save(folder / "free")
