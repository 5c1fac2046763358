"""Drawn scenes with ground truth: 256x256 images, instance masks and a scene graph, all from one seed.

`pseudo-ris lab draw-scenes --count 24 --seed 0 --out DIR` writes scenes as images and a COCO instances.json.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from pseudo_ris.records import Box
from pseudo_ris.world import painting, shapes, textures

SIZE = 256
CATEGORIES: tuple[str, ...] = tuple(shapes.BUILDERS)
COLOURS: tuple[str, ...] = tuple(painting.COLOUR_RGB)
PATTERNS: tuple[str, ...] = ("plain", "striped", "dotted")
SIZES: tuple[str, ...] = ("small", "large")
SPLITS: dict[str, int] = {"train": 1, "validation": 2, "demo": 3, "evaluation": 4}

MIN_OBJECTS, MAX_OBJECTS = 2, 8
MIN_VISIBLE_SHARE = 0.5
MIN_VISIBLE_PIXELS = 150
_LENGTHS = {"small": (30.0, 42.0), "large": (72.0, 104.0)}
_PATTERN_ODDS = (0.4, 0.3, 0.3)
_PLACEMENT_TRIES = 24

Rng = np.random.Generator


@dataclass(frozen=True)
class SceneObject:
    """One object: its words, and the tight half-open box (x0, y0, x1, y1) of its visible pixels.

    All four words are "" for forms without a category.
    """

    category: str
    colour: str
    pattern: str
    size: str
    box: Box


@dataclass(frozen=True)
class Scene:
    """An image with its ground truth.

    image: uint8 RGB [256, 256, 3]. label_map: uint8 [256, 256]; 0 is background, k marks the visible pixels of
    objects[k - 1]. Later objects lie in front of earlier ones.
    """

    image: np.ndarray
    label_map: np.ndarray
    objects: tuple[SceneObject, ...]

    @property
    def masks(self) -> np.ndarray:
        """Visible pixels of each object, bool [N, 256, 256], in the order of `objects`."""
        return self.label_map[None] == np.arange(1, len(self.objects) + 1, dtype=np.uint8)[:, None, None]


@dataclass(frozen=True)
class _Words:
    category: str
    colour: str
    pattern: str
    size: str


_NO_WORDS = _Words("", "", "", "")
_Painted = tuple[_Words, painting.CutOut]


@dataclass(frozen=True)
class _Placed:
    words: _Words
    cut: painting.CutOut
    x: int
    y: int


def scene_rng(split: str, seed: int, index: int, free_forms: bool = False, look_alikes: int = 0) -> Rng:
    """Returns the random generator of one scene; it differs for different splits, seeds, indices and kinds.

    Each of the four numbers fills one 32-bit word of the seed sequence, so different numbers never give the same sequence.
    look_alikes: number of objects of a scene of look-alikes; 0 for other scenes.

    Raises:
        ValueError: unknown split, or a seed or index outside 0 .. 2**32 - 1.
    """
    if split not in SPLITS:
        raise ValueError(f"split: {split!r} is not one of {', '.join(SPLITS)}")
    for name, value in (("seed", seed), ("index", index)):
        if not 0 <= value < 2**32:
            raise ValueError(f"{name}: {value} is outside 0 .. 2**32 - 1")
    return np.random.default_rng(np.random.SeedSequence([SPLITS[split], seed, index, 2 * look_alikes + free_forms]))


def draw_scene(split: str, seed: int, index: int, free_forms: bool = False) -> Scene:
    """Draws scene number `index` of a split and seed.

    Ordinary scenes contain 2-8 objects of the named categories. With `free_forms`, scenes also contain forms without a
    category (words ""), at any scale and sometimes cut by the border: training data for class-agnostic segmentation.
    Every object keeps at least MIN_VISIBLE_SHARE of its pixels and MIN_VISIBLE_PIXELS visible.

    Raises:
        ValueError: see `scene_rng`.
    """
    rng = scene_rng(split, seed, index, free_forms)
    light = painting.scene_light(rng)
    if free_forms:
        light = replace(light, shadow=rng.uniform(0.0, 0.55))
    layout = _Layout(border=0.3 if free_forms else 0.0)
    for painted in _free_objects(rng, light) if free_forms else _ordinary_objects(rng, light):
        layout.try_to_place(painted, rng)
    while len(layout.placed) < MIN_OBJECTS:
        layout.try_to_place(_spare_object(rng, light), rng)
    return _photograph(layout, light, rng, cast=0.12 if free_forms else 0.025)


def draw_look_alikes(split: str, seed: int, index: int, count: int) -> Scene:
    """Draws a scene of `count` small objects of one category, no two of which have the same colour and pattern.

    Every object can be told apart, so shares do not fall with `count` for lack of words.

    Raises:
        ValueError: see `scene_rng`, or `count` is outside MIN_OBJECTS .. MAX_OBJECTS.
    """
    if not MIN_OBJECTS <= count <= MAX_OBJECTS:
        raise ValueError(f"count: {count} is outside {MIN_OBJECTS} .. {MAX_OBJECTS}")
    rng = scene_rng(split, seed, index, look_alikes=count)
    light = painting.scene_light(rng)
    layout = _Layout(border=0.0)
    words = [replace(_random_words(rng), size="small")]
    while len(words) < count:
        look_alike = replace(_look_alike(words[int(rng.integers(len(words)))], rng), size="small")
        if look_alike not in words:
            words.append(look_alike)
    for own in words:
        while not layout.try_to_place(_paint_words(own, light, rng), rng):
            pass  # small objects fit sooner or later
    return _photograph(layout, light, rng, cast=0.025)


def _photograph(layout: _Layout, light: painting.Light, rng: Rng, cast: float) -> Scene:
    canvas = textures.background(rng, SIZE)
    for item in layout.placed:
        painting.paste(canvas, item.cut, item.x, item.y, light)
    image = textures.photograph(canvas, rng, cast=cast)
    objects = tuple(
        SceneObject(
            item.words.category, item.words.colour, item.words.pattern, item.words.size, _tight_box(layout.label_map == k)
        )
        for k, item in enumerate(layout.placed, start=1)
    )
    return Scene(image, layout.label_map, objects)


def _random_words(rng: Rng) -> _Words:
    return _Words(
        CATEGORIES[int(rng.integers(len(CATEGORIES)))],
        COLOURS[int(rng.integers(len(COLOURS)))],
        PATTERNS[int(rng.choice(3, p=_PATTERN_ODDS))],
        SIZES[int(rng.integers(2))],
    )


def _look_alike(other: _Words, rng: Rng) -> _Words:
    """Draws words with the category of `other`, often with its colour, and rarely with all its attributes."""
    words = replace(_random_words(rng), category=other.category)
    if rng.random() < 0.55:
        words = replace(words, colour=other.colour)
    if rng.random() < 0.08:
        return other
    while words == other:
        words = replace(_random_words(rng), category=other.category, colour=other.colour)
    return words


def _scene_words(rng: Rng) -> list[_Words]:
    """Draws the words of 2-8 objects; the share of look-alikes varies between scenes."""
    count = int(rng.integers(MIN_OBJECTS, MAX_OBJECTS + 1))
    likeness = rng.uniform(0.3, 0.9)
    words = [_random_words(rng)]
    while len(words) < count:
        if rng.random() < likeness:
            words.append(_look_alike(words[int(rng.integers(len(words)))], rng))
        else:
            words.append(_random_words(rng))
    return words


def _paint_words(words: _Words, light: painting.Light, rng: Rng) -> _Painted:
    silhouette = shapes.category_silhouette(words.category, rng)
    material = painting.named_material(words.colour, words.pattern, rng)
    return words, painting.cut_out(silhouette, rng.uniform(*_LENGTHS[words.size]), material, light, rng)


def _ordinary_objects(rng: Rng, light: painting.Light) -> Iterator[_Painted]:
    # Large objects come first, while there is room for them.
    for words in sorted(_scene_words(rng), key=lambda words: words.size == "small"):
        yield _paint_words(words, light, rng)


def _free_objects(rng: Rng, light: painting.Light) -> Iterator[_Painted]:
    """Draws families of 1 to 10 similar forms, mixed with objects of the named categories."""
    for _ in range(rng.integers(1, 5)):
        if rng.random() < 0.2:
            yield _paint_words(_random_words(rng), light, rng)
            continue
        form, material = shapes.free_silhouette(rng), painting.free_material(rng)
        length = float(np.exp(rng.uniform(np.log(20), np.log(200))))
        members = int(rng.integers(1, 4)) if rng.random() < 0.7 or length > 90 else int(rng.integers(4, 11))
        for _ in range(members):
            turned = shapes.transform(form, rng.normal(0, 15), rng.uniform(0.75, 1.3), bool(rng.random() < 0.5))
            tones = (material.tones * rng.normal(1, 0.08) + rng.normal(0, 5, 3)).clip(0, 255).astype(np.float32)
            own_length = float(np.clip(length * rng.uniform(0.75, 1.3), 20, 200))
            yield _NO_WORDS, painting.cut_out(turned, own_length, replace(material, tones=tones), light, rng)


def _spare_object(rng: Rng, light: painting.Light) -> _Painted:
    """Draws a small object, which fits almost anywhere."""
    return _paint_words(replace(_random_words(rng), size="small"), light, rng)


class _Layout:
    """Places objects one after the other; rejects an object that would hide too much or be hidden.

    border: fraction of its length by which an object may extend beyond the image.
    """

    def __init__(self, border: float) -> None:
        self.placed: list[_Placed] = []
        self.label_map = np.zeros((SIZE, SIZE), np.uint8)
        self._border = border
        self._areas: list[int] = [0]

    def try_to_place(self, painted: _Painted, rng: Rng) -> bool:
        words, cut = painted
        height, width = cut.cover.shape
        apart = rng.random() < 0.75
        for attempt in range(_PLACEMENT_TRIES):
            slack_x, slack_y = int(self._border * width), int(self._border * height)
            x = int(rng.integers(-slack_x, max(SIZE - width + slack_x, 1 - slack_x)))
            y = int(rng.integers(-slack_y, max(SIZE - height + slack_y, 1 - slack_y)))
            label_map = self.label_map.copy()
            painting.stamp(label_map, cut, x, y, len(self.placed) + 1)
            if apart and attempt < _PLACEMENT_TRIES // 2 and self._hides_something(label_map):
                continue
            if self._keep(label_map, int(cut.solid.sum())):
                self.placed.append(_Placed(words, cut, x, y))
                return True
        return False

    def _hides_something(self, label_map: np.ndarray) -> bool:
        return bool(np.any((label_map != self.label_map) & (self.label_map > 0)))

    def _keep(self, label_map: np.ndarray, area: int) -> bool:
        areas = [*self._areas, area]
        visible = np.bincount(label_map.ravel(), minlength=len(areas))[1:]
        if np.any(visible < np.maximum(MIN_VISIBLE_SHARE * np.array(areas[1:]), MIN_VISIBLE_PIXELS)):
            return False
        self.label_map, self._areas = label_map, areas
        return True


def _tight_box(mask: np.ndarray) -> Box:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
