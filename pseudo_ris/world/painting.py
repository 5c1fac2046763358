"""Paints silhouettes as antialiased objects with pattern, shading, outline, grain and shadow.

All computations use a window around the object, not the whole canvas.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from pseudo_ris.world.shapes import (
    BODY,
    CREAM,
    DARK,
    GLASS,
    HOLE,
    LIGHT,
    PATTERNED_TONES,
    SHADE,
    TONE_COUNT,
    WOOD,
    Silhouette,
    extent,
)
from pseudo_ris.world.textures import smooth_noise

Rng = np.random.Generator

COLOUR_RGB: dict[str, tuple[int, int, int]] = {
    "red": (208, 32, 38),
    "orange": (244, 132, 22),
    "yellow": (248, 220, 48),
    "green": (42, 150, 58),
    "blue": (38, 88, 208),
    "purple": (132, 50, 172),
    "white": (240, 240, 238),
    "black": (36, 36, 40),
}
# Colour of stripes and dots on each colour: differs in brightness and is not a colour of the list above.
_MARK_RGB: dict[str, tuple[int, int, int]] = {
    "red": (250, 214, 205),
    "orange": (255, 236, 205),
    "yellow": (132, 84, 20),
    "green": (212, 242, 200),
    "blue": (208, 226, 252),
    "purple": (234, 208, 248),
    "white": (120, 124, 134),
    "black": (172, 174, 180),
}
_FIXED_TONES = {DARK: (48, 46, 50), WOOD: (122, 84, 52), CREAM: (232, 222, 196), GLASS: (176, 204, 220)}
_SUPERSAMPLED_SIDE = 220


@dataclass(frozen=True)
class Light:
    """Direction towards the light (x right, y down, z to the viewer), unit length; strengths of shadow and highlight."""

    direction: np.ndarray
    shadow: float
    highlight: float


@dataclass(frozen=True)
class Material:
    """Appearance of one object.

    tones: float32 [2, 8, 3], RGB of each tone, without and with a pattern mark. pattern: "plain", "striped" or "dotted".
    outline: darkness of the contour in 0..1. relief: how rounded the body looks, 0 flat. softness: blur of the edge in
    pixels. grain: strength of the surface noise, whose cells are `grain_cell` pixels whatever the object's size.
    """

    tones: np.ndarray
    pattern: str
    outline: float
    relief: float
    softness: float
    grain: float
    grain_cell: float


@dataclass(frozen=True)
class CutOut:
    """A painted object in its window: colour float32 [h, w, 3] in 0..255, cover float32 [h, w] in 0..1."""

    colour: np.ndarray
    cover: np.ndarray

    @property
    def solid(self) -> np.ndarray:
        """Pixels that belong to the object, bool [h, w]: covered by at least one half."""
        return self.cover >= 0.5


def scene_light(rng: Rng) -> Light:
    """Draws the light of a scene, which comes from above, left or right."""
    x, y, z = rng.uniform(-0.8, 0.8), rng.uniform(-0.9, -0.2), rng.uniform(0.6, 1.1)
    direction = np.array([x, y, z], dtype=np.float32)
    return Light(direction / np.linalg.norm(direction), rng.uniform(0.2, 0.55), rng.uniform(0.05, 0.5))


def _tone_table(body: np.ndarray, mark: np.ndarray, fixed: dict[int, np.ndarray]) -> np.ndarray:
    table = np.zeros((2, TONE_COUNT, 3), np.float32)
    for row, colour in enumerate((body, mark)):
        table[row, HOLE] = body
        table[row, BODY] = colour
        table[row, SHADE] = colour * 0.8
        table[row, LIGHT] = colour * 0.85 + 255 * 0.15
        for tone, rgb in fixed.items():
            table[row, tone] = rgb
    return np.clip(table, 0, 255)


def named_material(colour: str, pattern: str, rng: Rng) -> Material:
    """Draws a material of a named colour and pattern; hues vary slightly, outline and grain have a fixed width in pixels."""
    brightness = rng.uniform(0.92, 1.06)
    jitter = rng.normal(0, 2.0, 3)
    body = np.array(COLOUR_RGB[colour], np.float32) * brightness + jitter
    mark = np.array(_MARK_RGB[colour], np.float32) + jitter
    fixed = {tone: np.array(rgb, np.float32) for tone, rgb in _FIXED_TONES.items()}
    return Material(
        tones=_tone_table(body, mark, fixed).astype(np.float32),
        pattern=pattern,
        outline=rng.uniform(0.5, 0.7),
        relief=rng.uniform(0.5, 1.0),
        softness=0.0,
        grain=rng.uniform(0.05, 0.08),
        grain_cell=2.2,
    )


def free_material(rng: Rng) -> Material:
    """Draws a material of arbitrary colours, with photo-like grain, soft edges and rarely an outline."""

    def any_colour() -> np.ndarray:
        vivid = rng.uniform(0, 1) ** 1.5
        return (rng.uniform(20, 250) * (1 - vivid) + rng.uniform(0, 255, 3) * vivid).astype(np.float32)

    fixed = {tone: any_colour() if rng.random() < 0.6 else np.array(rgb, np.float32) for tone, rgb in _FIXED_TONES.items()}
    return Material(
        tones=_tone_table(any_colour(), any_colour(), fixed).astype(np.float32),
        pattern=str(rng.choice(["plain", "striped", "dotted"], p=[0.7, 0.15, 0.15])),
        outline=rng.uniform(0.2, 0.6) if rng.random() < 0.25 else 0.0,
        relief=rng.uniform(0.0, 1.2),
        softness=rng.uniform(0.0, 1.0),
        grain=rng.uniform(0.02, 0.2),
        grain_cell=rng.uniform(1.2, 12),
    )


def _pattern_marks(pattern: str, side: int, scale: int, rng: Rng) -> np.ndarray:
    """Where the marks are, bool [side, side] in supersampled pixels. Coarse: a small object still shows two or three.

    The period grows slower than the object, so that a crop brought to a fixed size still tells large from small.
    """
    period = (5.5 + 0.16 * side / scale) * scale
    angle = np.radians(rng.choice([0, 45, 90, 135]) + rng.normal(0, 6))
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    along, across = along + rng.uniform(0, period), across + rng.uniform(0, period)
    if pattern == "striped":
        return (along % period) < 0.4 * period
    row = np.floor(along / period)
    across = across + (row % 2) * (0.5 * period)
    return np.hypot(along % period - period / 2, across % period - period / 2) < 0.32 * period


def _rounding(cover: np.ndarray, relief: float, light: Light) -> tuple[np.ndarray, np.ndarray]:
    """Brightness factor and highlight, float32 [h, w], of the silhouette inflated like a cushion."""
    inside = cv2.distanceTransform((cover >= 0.5).astype(np.uint8), cv2.DIST_L2, 3)
    depth = max(float(inside.max()), 1.0)
    share = np.clip(inside / depth, 0, 1)
    height = cv2.GaussianBlur(np.sqrt(share * (2 - share)), (0, 0), 0.8 + 0.06 * depth) * depth * relief
    slope_x, slope_y = cv2.Sobel(height, cv2.CV_32F, 1, 0, scale=0.125), cv2.Sobel(height, cv2.CV_32F, 0, 1, scale=0.125)
    norm = 1.0 / np.sqrt(slope_x**2 + slope_y**2 + 1.0)
    x, y, z = (float(value) for value in light.direction)
    facing = (z - slope_x * x - slope_y * y) * norm
    half = np.array([x, y, z + 1.0]) / np.linalg.norm([x, y, z + 1.0])
    mirror = np.clip((half[2] - slope_x * half[0] - slope_y * half[1]) * norm, 0, 1)
    brightness = np.clip(0.5 + 0.62 * np.clip(facing, 0, 1), 0.5, 1.12)
    return brightness.astype(np.float32), (light.highlight * mirror**24 * min(relief, 1.0)).astype(np.float32)


def cut_out(silhouette: Silhouette, length: float, material: Material, light: Light, rng: Rng) -> CutOut:
    """Paints a silhouette whose longer side is `length` pixels, with a margin of 2 pixels on each side."""
    low, high = extent(silhouette)
    span = high - low
    width, height = (int(np.ceil(value)) + 4 for value in span * length / span.max())
    scale = int(np.clip(_SUPERSAMPLED_SIDE // max(width, height), 2, 4))
    zoom = length * scale / span.max()
    offset = np.array([width, height]) * scale / 2 - (low + high) / 2 * zoom

    tones = np.zeros((height * scale, width * scale), np.uint8)
    for part in silhouette:
        corners = np.round((part.points * zoom + offset) * 16).astype(np.int32)
        cv2.fillPoly(tones, [corners], int(part.tone), lineType=cv2.LINE_8, shift=4)
    marks = np.zeros(tones.shape, np.uint8)
    if material.pattern != "plain":
        side = max(tones.shape)
        pattern = _pattern_marks(material.pattern, side, scale, rng)[: tones.shape[0], : tones.shape[1]]
        marks = (pattern & np.isin(tones, PATTERNED_TONES)).astype(np.uint8)

    colour = cv2.resize(material.tones[marks, tones], (width, height), interpolation=cv2.INTER_AREA)
    cover = cv2.resize((tones != HOLE).astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    colour = _shade(colour, cover, material, light, rng)
    if material.softness > 0.2:
        cover = cv2.GaussianBlur(cover, (0, 0), material.softness)
    return CutOut(colour, cover)


def _shade(colour: np.ndarray, cover: np.ndarray, material: Material, light: Light, rng: Rng) -> np.ndarray:
    height, width = cover.shape
    brightness, highlight = _rounding(cover, material.relief, light)
    grain = smooth_noise(rng, height, width, material.grain_cell) * material.grain
    colour = colour * (brightness * (1 + grain))[..., None] + 255 * (highlight + 0.15 * grain)[..., None]
    if material.outline:
        inside = cv2.distanceTransform((cover >= 0.5).astype(np.uint8), cv2.DIST_L2, 3)
        contour = np.clip((2.6 - inside) / 1.2, 0, 1) * material.outline
        colour = colour * (1 - contour)[..., None]
    return colour.astype(np.float32)


def paste(canvas: np.ndarray, cut: CutOut, x: int, y: int, light: Light) -> None:
    """Blends a cut-out and its soft shadow into the canvas (float32 [H, W, 3], in place) with its corner at (x, y)."""
    _cast_shadow(canvas, cut, x, y, light)
    rows, columns, inner = _overlap(canvas.shape, cut.cover.shape, x, y)
    cover = cut.cover[inner][..., None]
    canvas[rows, columns] = canvas[rows, columns] * (1 - cover) + cut.colour[inner] * cover


def _cast_shadow(canvas: np.ndarray, cut: CutOut, x: int, y: int, light: Light) -> None:
    reach = 2.0 + 0.05 * max(cut.cover.shape)
    margin = int(np.ceil(3 * reach))
    shadow = cv2.copyMakeBorder(cut.cover, margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=0)
    shadow = cv2.GaussianBlur(shadow, (0, 0), reach) * light.shadow
    left = x - margin - round(1.5 * reach * float(light.direction[0]))
    top = y - margin - round(1.5 * reach * float(light.direction[1]))
    rows, columns, inner = _overlap(canvas.shape, shadow.shape, left, top)
    canvas[rows, columns] *= (1 - shadow[inner])[..., None]


def _overlap(canvas: tuple[int, ...], window: tuple[int, ...], x: int, y: int) -> tuple[slice, slice, tuple[slice, slice]]:
    """Rows and columns of the canvas under a window whose corner is (x, y), and the same region within the window."""
    top, left = max(y, 0), max(x, 0)
    bottom, right = min(y + window[0], canvas[0]), min(x + window[1], canvas[1])
    return slice(top, bottom), slice(left, right), (slice(top - y, bottom - y), slice(left - x, right - x))


def stamp(labels: np.ndarray, cut: CutOut, x: int, y: int, value: int) -> None:
    """Writes `value` to the label map where the cut-out is solid."""
    rows, columns, inner = _overlap(labels.shape, cut.cover.shape, x, y)
    labels[rows, columns][cut.solid[inner]] = value
