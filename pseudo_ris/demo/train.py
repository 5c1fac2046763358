"""Trains the four embedded demo models on drawn scenes: one seeded command.

    python -m pseudo_ris.demo.train                      all four, into pseudo_ris/demo/weights
    python -m pseudo_ris.demo.train --models coca clip   some of them; each comes out the same as in a full training

Scenes are drawn first (kept in a temporary folder), then CutLER and SAM train in one process, CoCa and CLIP in another, on one
thread each.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from pseudo_ris.cli import run_recipe
from pseudo_ris.demo.scene_set import SceneSet, build_scene_set
from pseudo_ris.demo.train_clip import train_clip
from pseudo_ris.demo.train_coca import train_coca
from pseudo_ris.demo.train_cutler import train_cutler
from pseudo_ris.demo.train_sam import train_sam
from pseudo_ris.device import pick_device
from pseudo_ris.masks.cascade_rcnn import ARCHITECTURES, CascadeMaskRCNN
from pseudo_ris.weights import EMBEDDED, load_weights, save_weights

ORDINARY_SCENES = 4500
FREE_SCENES = 3000
# What trains one after the other in a process: SAM starts from the trained CutLER.
CHAINS = (("cutler", "sam"), ("coca", "clip"))
MODELS = tuple(name for chain in CHAINS for name in chain)


def train_model(name: str, scenes: Path, out: Path, seed: int, steps: int | None, device: str) -> None:
    """Trains one model on the scene sets below `scenes` and writes `<out>/<name>.safetensors`.

    SAM takes `<out>/cutler.safetensors` as its start.
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
    tqdm.write(f"{out / name}.safetensors: trained in {time.monotonic() - started:.0f} s")


def train_chain(names: Sequence[str], *arguments: Any) -> None:
    """`train_model` for each name in turn, on one thread."""
    torch.set_num_threads(1)
    for name in names:
        train_model(name, *arguments)


def draw_training_scenes(folder: Path, seed: int, ordinary: int, free: int, workers: int) -> None:
    """Draws the two training sets below `folder`: ordinary scenes, and scenes of free forms for the stage-1 models."""
    build_scene_set("train", seed, ordinary, workers=workers).save(folder / "ordinary")
    build_scene_set("train", seed, free, free_forms=True, workers=workers).save(folder / "free")


def main(argv: Sequence[str]) -> int:
    """The command line above."""
    parser = argparse.ArgumentParser(prog="python -m pseudo_ris.demo.train", description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS, help="default: all four")
    parser.add_argument("--seed", type=int, default=0, help="of scenes, initial weights and batches (default: 0)")
    parser.add_argument("--out", type=Path, default=EMBEDDED, help="folder of the .safetensors files (default: the embedded)")
    parser.add_argument("--workers", type=int, default=2, help="processes that draw and train, two at most train (default: 2)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:0 (default: auto)")
    parser.add_argument("--scenes", type=int, default=ORDINARY_SCENES, help=f"ordinary scenes (default: {ORDINARY_SCENES})")
    parser.add_argument("--free-scenes", type=int, default=FREE_SCENES, help=f"free-form scenes (default: {FREE_SCENES})")
    parser.add_argument("--steps", type=int, default=None, help="fewer steps, to try the command; default: as shipped")
    options = parser.parse_args(argv)
    os.environ["OMP_NUM_THREADS"] = "1"  # read by the processes started below
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        draw_training_scenes(Path(temporary), options.seed, options.scenes, options.free_scenes, options.workers)
        print(f"scenes drawn after {time.monotonic() - started:.0f} s")
        with ProcessPoolExecutor(options.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            arguments = (Path(temporary), options.out, options.seed, options.steps, options.device)
            chains = [[name for name in chain if name in options.models] for chain in CHAINS]
            for training in [pool.submit(train_chain, chain, *arguments) for chain in chains]:
                training.result()
    print(f"done after {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    run_recipe(main)
