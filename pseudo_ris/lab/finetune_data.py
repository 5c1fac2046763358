"""Draws captioned crops and exports the embedded CoCa, to test fine-tuning (`pseudo-ris lab finetune-data`)."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pseudo_ris.assets.architectures import BPE_PATH, COCA
from pseudo_ris.captions.crops import CLIP_MEAN, CLIP_STD, CROP_SETS
from pseudo_ris.checkpoints.weights import EMBEDDED
from pseudo_ris.io.files import replace_folder
from pseudo_ris.lab.crop_data import EDGE_ERRORS, CropSource
from pseudo_ris.world.grammar import full_caption
from pseudo_ris.world.scene_set import SceneSet

CROPS = 2000
SHARDS = 4
# The embedded models were trained on scenes with seed 0.
SEED = 1
CROPS_PER_SCENE = 4  # slightly fewer than the objects of a scene, so that few objects occur twice
# Crops are 96 pixels wide: stronger compression or chroma subsampling would blur stripes and dots.
JPEG_QUALITY = 95
# open_clip trains a model as CoCa if its name contains "coca"; the path of the folder is the name.
MODEL_FOLDER = "coca_demo"


def draw_pairs(scenes: SceneSet, count: int, seed: int) -> Iterator[tuple[np.ndarray, str]]:
    """Draws `count` pairs of a crop, RGB uint8 [S, S, 3], and the caption with all attributes of its object.

    Crops are cut as in stage 2, each in a random crop set. The embedded CoCa names random subsets of the attributes, so
    fine-tuning can learn to name all. The same arguments give the same pairs.
    """
    rng = np.random.default_rng(seed)
    source = CropSource(scenes, COCA["vision_cfg"]["image_size"], EDGE_ERRORS)
    drawn = 0
    while drawn < count:
        targets = source.draw_scenes(rng, count - drawn)
        crop_sets = rng.choice(CROP_SETS, len(targets)).tolist()
        for target, crop_set in zip(targets, crop_sets, strict=True):
            (crop,) = source.cut([target], [crop_set], rng)
            yield to_pixels(crop), full_caption(target.attributes)
        drawn += len(targets)


def to_pixels(crop: torch.Tensor) -> np.ndarray:
    """Converts a normalised crop, float [3, S, S], to RGB uint8 [S, S, 3]."""
    colours = crop * torch.tensor(CLIP_STD).view(3, 1, 1) + torch.tensor(CLIP_MEAN).view(3, 1, 1)
    return (colours * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()


def write_webdataset(pairs: Sequence[tuple[np.ndarray, str]], folder: Path, shards: int) -> None:
    """Replaces `folder` by a WebDataset of the pairs: 00000.tar, ... with NUMBER.jpg and NUMBER.txt, and sizes.json.

    sizes.json (shard -> number of pairs) tells open_clip the length. Shard k contains the pairs k, k + shards, ..., so sizes
    differ by at most one. The same pairs give the same bytes. Raises UserError when the folder cannot be written.
    """
    names = [f"{shard:05d}.tar" for shard in range(shards)]
    parts = [list(enumerate(pairs))[shard::shards] for shard in range(shards)]
    files = {name: _tar(part) for name, part in zip(names, parts, strict=True)}
    sizes = {name: len(part) for name, part in zip(names, parts, strict=True)}
    replace_folder(folder, {**files, "sizes.json": json.dumps(sizes, indent=1).encode()})


def write_model_folder(folder: Path) -> None:
    """Replaces `folder` by the embedded CoCa in the form of open_clip's "local-dir:" scheme. Raises UserError.

    Training normalises images as stage 2 does, because CLIP's mean and standard deviation are open_clip's default.
    """
    text = {**COCA["text_cfg"], "tokenizer_kwargs": {"bpe_path": str(BPE_PATH.resolve())}}
    config = {"model_cfg": {**COCA, "text_cfg": text, "custom_text": True}, "preprocess_cfg": {}}
    weights = (EMBEDDED / "coca.safetensors").read_bytes()
    replace_folder(
        folder, {"open_clip_config.json": json.dumps(config, indent=1).encode(), "open_clip_model.safetensors": weights}
    )


def _tar(numbered: Sequence[tuple[int, tuple[np.ndarray, str]]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for number, (pixels, caption) in numbered:
            for suffix, data in (("jpg", _jpeg(pixels)), ("txt", caption.encode())):
                entry = tarfile.TarInfo(f"{number:06d}.{suffix}")
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def _jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()
