"""Sources of the images and masks of a set of pairs: folders, or one image in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.io.mask_png import decode_mask
from pseudo_ris.io.safe_paths import read_inside
from pseudo_ris.pairs.selection import area_shares
from pseudo_ris.storage.mask_store import MaskStore


class MaskFiles(Protocol):
    """Whoever has the masks as PNG files."""

    def read_png(self, image_id: str, seg_id: int) -> bytes:
        """The file of one mask. Raises BadInputError."""
        ...


class Pictures(MaskFiles, Protocol):
    """The images and masks of a set. names: of images to be shown even where they have no pairs."""

    names: Sequence[str]

    def read_image(self, name: str) -> bytes:
        """The encoded image. Raises BadInputError."""
        ...

    def area_shares(self, image_ids: list[str], seg_ids: list[int]) -> np.ndarray:
        """Area of each mask as a share of its image's pixels, float64 [M], in [0, 1]. Raises UserError."""
        ...


@dataclass(frozen=True)
class Folders:
    """Images at `<images>/<name>`, masks as stage 1 keeps them."""

    images: Path
    masks: MaskStore
    names: Sequence[str] = ()

    @classmethod
    def existing(cls, images: Path, masks: Path) -> Folders:
        """Folders that must be there; `images` may be a single image, as for stage 2. Raises UserError."""
        images = images.parent if images.is_file() else images
        for folder, option in ((images, "--images"), (masks, "--masks")):
            if not folder.is_dir():
                raise UserError(f"{option} {folder}: no such folder; give the one that stage 2 had")
        return cls(images, MaskStore(masks))

    def read_image(self, name: str) -> bytes:
        """As Pictures; also raises BadInputError where the name leads out of the folder."""
        return read_inside(self.images, name)

    def read_png(self, image_id: str, seg_id: int) -> bytes:
        """As MaskFiles."""
        return self.masks.read_png(image_id, seg_id)

    def area_shares(self, image_ids: list[str], seg_ids: list[int]) -> np.ndarray:
        """As Pictures."""
        return area_shares(self.masks.folder, image_ids, seg_ids)


@dataclass(frozen=True)
class OneImage:
    """One encoded image, and the PNGs of its masks by seg id."""

    name: str
    data: bytes = field(repr=False)
    pngs: Mapping[int, bytes] = field(repr=False)

    @property
    def names(self) -> Sequence[str]:
        """The image's."""
        return (self.name,)

    def read_image(self, name: str) -> bytes:
        """As Pictures."""
        return self.data

    def read_png(self, image_id: str, seg_id: int) -> bytes:
        """As MaskFiles."""
        try:
            return self.pngs[seg_id]
        except KeyError as error:
            raise BadInputError(f"seg_id: {self.name} has no mask {seg_id}; its masks are {sorted(self.pngs)}") from error

    def area_shares(self, image_ids: list[str], seg_ids: list[int]) -> np.ndarray:
        """As Pictures."""
        return np.array([decode_mask(self.pngs[seg_id]).mean() for seg_id in seg_ids])
