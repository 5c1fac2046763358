"""Pairs of drawn noise as stage 2 leaves them, and what they are made of."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from pseudo_ris.io.mask_png import encode_mask
from pseudo_ris.pairs.rows import PAPER_COLUMNS

HEIGHT, WIDTH = 20, 30


def png(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)).save(file, "png")
    return file.getvalue()


def square(left: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[4:12, left : left + 9] = True
    return mask


def write_pairs(folder: Path, *scores: list[float]) -> dict[str, str]:
    """Pairs of one image as stage 2 leaves them, a mask for each list of DoC; the settings that name them."""
    (folder / "photos").mkdir(parents=True)
    (folder / "photos" / "a.png").write_bytes(png(0))
    (folder / "masks" / "a").mkdir(parents=True)
    with (folder / "pairs.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(PAPER_COLUMNS)
        for number, doc in enumerate(scores):
            (folder / "masks" / "a" / f"{number}.png").write_bytes(encode_mask(square(number)))
            texts = json.dumps([f"thing {place}" for place in range(len(doc))])
            writer.writerow([number, "a.png", "a", number, len(doc), texts, json.dumps(doc), 0])
    places = {"pairs": "pairs.csv", "pair_images": "photos", "pair_masks": "masks"}
    return {name: str(folder / place) for name, place in places.items()}
