"""A small set of pairs on disk, made by hand, for the tests of the report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from pseudo_ris.config import ScoringConfig
from pseudo_ris.io.boxes import box_of
from pseudo_ris.io.images import read_bytes
from pseudo_ris.pairs.assembly import write_pairs
from pseudo_ris.records import CaptionRecord, ImageRecord, MaskCaptions, MaskRecord
from pseudo_ris.report.page import Report
from pseudo_ris.report.write import write_report
from pseudo_ris.storage.caption_parts import Part
from pseudo_ris.storage.mask_store import MaskStore

WIDTH, HEIGHT = 80, 60
THRESHOLD = 1.2
AWKWARD = "</script><img src=x onerror=\"document.title=1\"> & 'it' 😀"
"""A caption that would end the page's data, load something and run code, if it were taken for markup."""


def block(x0: int, x1: int, y0: int = 20, y1: int = 40) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def caption(text: str, doc: float, rival: int | None, crop_set: str = "masked", strategy: str = "beam") -> CaptionRecord:
    return CaptionRecord(text, crop_set, strategy, text.split()[-1], 7.0, 6.5, doc / 1.1, 7.0, doc, rival)


class SmallSet:
    """Images, masks and pairs below one folder.

    Image a: masks 0 and 1, which are nearly the same, and 2; mask 2 has no passing candidate. b: one mask. c: none.
    """

    def __init__(self, folder: Path, further_images: int = 0) -> None:
        self.images, self.masks, self.pairs = folder / "images", folder / "masks", folder / "pairs.csv"
        self.page = folder / "report.html"
        self.store = MaskStore(self.masks)
        self.store.prepare()
        self.images.mkdir()
        self.parts: list[Part] = []
        first = (caption("red ball", 2.0, 2), caption("red ball", 2.0, 2, "image_1.0"), caption("a ball", 0.5, 1))
        second = (caption("the left ball", 1.3, 0), caption(AWKWARD, 1.1, 0))
        third = (caption("a thing", 0.9, 0), caption("a dim thing", 0.8, 1))
        self.add("a", [block(5, 25), block(5, 25, 20, 39), block(50, 70)], [first, second, third])
        self.add("b", [block(30, 60)], [tuple(caption(f"cup {number}", 7.0 - number, None) for number in range(3))])
        self.add("c", [], [])
        for number in range(further_images):
            own = (caption(f"box {number}", 1.0 + number / 10, 1), caption("a box", 0.7, 1))
            other = (caption(f"jar {number}", 3.0, 0),)
            self.add(f"more_{number:03d}", [block(2, 22), block(40, 78, 5, 55)], [own, other])
        self.write_pairs()

    def add(self, name: str, masks: list[np.ndarray], captions: list[tuple[CaptionRecord, ...]]) -> None:
        path = self.images / f"{name}.png"
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), (90, 120, 150), np.uint8)).save(path)
        record = ImageRecord(name, path.name, lambda: read_bytes(path))
        records = [MaskRecord(seg_id, mask, box_of(mask), 0.9, "sam") for seg_id, mask in enumerate(masks)]
        self.store.write(record, "key", records, HEIGHT, WIDTH)
        only = len(masks) == 1
        self.parts.append(Part(name, path.name, tuple(MaskCaptions(i, only, own) for i, own in enumerate(captions))))

    def write_pairs(self) -> None:
        write_pairs(self.parts, self.pairs.parent, self.pairs.stem, ScoringConfig(threshold=THRESHOLD))

    def report(self, max_images: int = 1000) -> Report:
        return write_report(self.pairs, self.images, self.masks, self.page, THRESHOLD, max_images)
