"""Files of what a frozen image tower says of an image: safetensors with the tensors "0", "1" and so on, and the image's size.

Maps are kept in half precision, everything else as it is.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from pseudo_ris.errors import BadInputError
from pseudo_ris.ris.models.base import ImageFeatures

MAP_AXES = 3
SIZE = "size"


def read_features(path: Path) -> tuple[ImageFeatures, tuple[int, int]]:
    """The features of one image, without the leading axis of images, floats in float32; and the image's height and width.

    Raises BadInputError.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise BadInputError(f"{path}: not a readable file of image features ({error}); remove it, it is made again") from error
    height, width = tensors.pop(SIZE).tolist()
    ordered = (tensors[str(number)] for number in range(len(tensors)))
    return tuple(each.float() if each.dtype == torch.float16 else each for each in ordered), (height, width)


def pack_features(features: ImageFeatures, size: tuple[int, int]) -> bytes:
    """Content of the file of one image. features: of one image, each tensor with one row. size: its height and width."""
    rows = (feature[0].cpu().contiguous() for feature in features)
    kept = (row.half() if row.is_floating_point() and row.ndim == MAP_AXES else row for row in rows)
    return save({SIZE: torch.tensor(size), **{str(number): row for number, row in enumerate(kept)}})
