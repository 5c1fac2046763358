"""Features of a frozen image tower, computed once per image and kept on disk.

A folder of the model's tower holds a file for each image, both named by a hash of their content: a changed image or other
weights find no file and are computed anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.io.files import write_atomic
from pseudo_ris.io.images import decode_image
from pseudo_ris.io.terminal import ProgressBar
from pseudo_ris.ris.data.features import pack_features
from pseudo_ris.ris.data.samples import framed_image
from pseudo_ris.ris.data.targets import Target, by_image
from pseudo_ris.ris.models.base import RisModel
from pseudo_ris.ris.training.distributed import Processes

Made = TypeVar("Made")


class FeatureCache:
    """Files of a model's image features.

    Args:
        folder: of all models' features. model: one whose image tower is frozen.

    Raises UserError when the image tower learns.
    """

    def __init__(self, folder: Path, model: RisModel) -> None:
        if not model.frozen_images:
            raise UserError("data.features: the image tower of this model learns, so that it must run in every step; remove it")
        self.model = model
        self.folder = folder / _tower_digest(model)[:16]

    def fill(self, targets: Sequence[Target], processes: Processes) -> list[Path]:
        """The file of each image of `by_image(targets)`; computes those that are missing, each process its share.

        Call it in all processes, with the model on their device. Raises UserError that names a target whose image cannot
        be read.
        """
        first = [targets[places[0]] for places in by_image(targets)]
        paths = [self._path_of(target) for target in first]
        missing = {path: target for path, target in zip(paths, first, strict=True) if not path.is_file()}
        if any(processes.gather(bool(missing))):
            self._make(processes.share(list(missing.items())), processes.device)
            processes.gather(None)
            # Files of other processes exist now, unless they write to another disk.
            self._make([(path, target) for path, target in missing.items() if not path.is_file()], processes.device)
        return paths

    def _make(self, missing: Sequence[tuple[Path, Target]], device: torch.device) -> None:
        with ProgressBar("image features", len(missing), unit="images", leave=False) as bar:
            for path, target in missing:
                content = _named(target, target.read_image)
                pixels = _named(target, partial(decode_image, content, target.name))
                features = self.model.image_features(framed_image(pixels, self.model.form)[None].to(device))
                write_atomic(path, pack_features(features, pixels.shape[:2]))
                bar.update()

    def _path_of(self, target: Target) -> Path:
        return self.folder / f"{hashlib.sha256(_named(target, target.read_image)).hexdigest()}.safetensors"


def _tower_digest(model: RisModel) -> str:
    """Hash of what the image features depend on: the frozen weights and the form of the image."""
    found = hashlib.sha256(repr((type(model).__name__, model.form)).encode())
    learns = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, tensor in model.state_dict().items():
        if name not in learns:
            found.update(name.encode() + tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _named(target: Target, make: Callable[[], Made]) -> Made:
    """What `make` gives; a UserError that names the target in place of a BadInputError."""
    try:
        return make()
    except BadInputError as error:
        raise UserError(f"{target.name}: {error}") from error
