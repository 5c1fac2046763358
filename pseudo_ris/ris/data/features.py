"""Files of what a frozen image tower says of an image: safetensors with the tensors "0", "1" and so on.

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


def read_features(path: Path) -> ImageFeatures:
    """The features of one image, without the leading axis of images; floats in float32. Raises BadInputError."""
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise BadInputError(f"{path}: not a readable file of image features ({error}); remove it, it is made again") from error
    return tuple(_single(tensors[str(number)]) for number in range(len(tensors)))


def pack_features(features: ImageFeatures) -> bytes:
    """Content of the file of one image. features: of one image, each tensor with one row."""
    rows = (feature[0].cpu().contiguous() for feature in features)
    kept = (row.half() if row.is_floating_point() and row.ndim == MAP_AXES else row for row in rows)
    return save({str(number): row for number, row in enumerate(kept)})


def _single(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
