"""Random sets of pairs with everything that is awkward about them, and small whole ones."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from pseudo_ris.pairs.pair_set import PairImage, PairObject, Rle

AWKWARD = (
    "",
    " ",
    "the dog",
    'a "red" ball, left; it\'s mine',
    "line one\nline two\r\nthree\ttabs",
    "🎈 emoji 👩‍👩‍👧 and ünïcödé",
    "\\u0041 \\n {\"json\": [1]} ['list']",
    "nul \x00 inside",
    "\u2028\u2029\x85 odd line ends",
    "a,b,c\n\"d\",'e'",
    "NaN",
    "右边的人",
)
IDS = ("7", "900001", "-3", "007", "9" * 30, "a__b", "é 🎈", "1e3", "1.0", "", " 5", "٣", "-0", "../x", "a/b")
NAME_PARTS = (
    "a",
    "COCO_train2014_",
    "b c",
    "é🎈",
    "new\nline",
    "quote'\"",
    "sub folder/x",
    "a/b/c",
    "...",
    "-x",
    "%20",
    "tail.",
)
SUFFIXES = (".jpg", ".png", ".JPEG", "", ".tar.gz", ".json")
CATEGORIES = (1, 3, 18, 90, -1, 12345)


def png(height: int, width: int, seed: int = 0) -> bytes:
    """A picture of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


class Bytes:
    """PairImage.read of bytes in memory."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def __call__(self) -> bytes:
        return self.data


def image(image_id: str = "7", objects: tuple[PairObject, ...] = (), **changes) -> PairImage:
    """A picture of 10 x 12 pixels."""
    plain = PairImage(image_id, f"{image_id}.png", 10, 12, "train", objects, Bytes(png(10, 12)))
    return replace(plain, **changes)


def thing(ref_id: int = 1, *texts: str, **changes) -> PairObject:
    """An object of such a picture, a rectangle."""
    mask = np.zeros((10, 12), bool)
    mask[2:5, 3 : 4 + ref_id % 8] = True
    plain = PairObject(ref_id, ref_id, ref_id, Rle.of(mask), texts, tuple(range(100 * ref_id, 100 * ref_id + len(texts))))
    return replace(plain, **changes)


@st.composite
def sets(draw, side: int = 9) -> list[PairImage]:
    """Sets of up to 6 images, each in one or two splits, with up to 5 masks and 8 refs a split."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    texts = [*AWKWARD, *draw(st.lists(st.text(max_size=20), max_size=6))]
    ids = [str(each) for each in random.permutation(IDS)[: random.integers(0, 7)]]
    numbers = _Numbers(random)
    images = []
    for position, image_id in enumerate(ids):
        height, width = (int(value) for value in random.integers(1, side, 2))
        name = f"{random.choice(NAME_PARTS)}{position}{random.choice(SUFFIXES)}"
        masks = [_mask(random, height, width, numbers) for _ in range(random.integers(0, 6))]
        data = png(height, width, position)
        for split in random.permutation(["train", "val", "testA"])[: random.integers(1, 3)]:
            count = int(random.integers(0, 9)) if masks else 0
            objects = tuple(_ref(random, masks, texts, numbers) for _ in range(count))
            images.append(PairImage(image_id, name, height, width, str(split), objects, Bytes(data)))
    return [images[index] for index in random.permutation(len(images))]


class _Numbers:
    """Numbers that are unique in a set: in turn, or from anywhere."""

    def __init__(self, random: np.random.Generator) -> None:
        self.random = random
        self.in_turn = random.random() < 0.5
        self.taken = {-1}

    def next(self) -> int:
        number = max(self.taken) + 1 if self.in_turn else int(self.random.integers(-(2**40), 2**62))
        while number in self.taken:
            number += 1
        self.taken.add(number)
        return number


def _mask(random: np.random.Generator, height: int, width: int, numbers: _Numbers) -> tuple[int, int, Rle]:
    """object_id, seg_id and mask; empty and full ones among them."""
    mask = random.random((height, width)) < random.choice([0.0, 0.1, 0.5, 1.0])
    number = numbers.next()
    return number, number if random.random() < 0.5 else int(random.integers(0, 50)), Rle.of(mask)


def _ref(random: np.random.Generator, masks: list[tuple[int, int, Rle]], texts: list[str], numbers: _Numbers) -> PairObject:
    object_id, seg_id, mask = masks[random.integers(len(masks))]
    sentences = tuple(texts[index] for index in random.integers(0, len(texts), random.integers(0, 4)))
    return PairObject(
        ref_id=object_id if random.random() < 0.3 and object_id not in numbers.taken else numbers.next(),
        object_id=object_id,
        seg_id=seg_id,
        mask=mask,
        sentences=sentences,
        sent_ids=tuple(numbers.next() for _ in sentences),
        category_id=int(random.choice(CATEGORIES)),
    )
