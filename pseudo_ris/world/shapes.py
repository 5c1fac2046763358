"""Builds silhouettes from primitives: one function per category, and free forms without a category.

A silhouette is a list of parts, painted in order. A part is a polygon in object coordinates (x to the right, y down, the
object roughly within [-1, 1] on both axes) with a tone, which selects its colour. The tone HOLE cuts the part out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

HOLE, BODY, SHADE, LIGHT, DARK, WOOD, CREAM, GLASS = range(8)
TONE_COUNT = 8
PATTERNED_TONES = (BODY, SHADE, LIGHT)


class Part(NamedTuple):
    """A polygon, float64 [points, 2], and its tone."""

    points: np.ndarray
    tone: int


Silhouette = list[Part]


def _polygon(tone: int, *points: tuple[float, float]) -> Part:
    return Part(np.array(points, dtype=np.float64), tone)


def _rectangle(tone: int, x0: float, y0: float, x1: float, y1: float) -> Part:
    return _polygon(tone, (x0, y0), (x1, y0), (x1, y1), (x0, y1))


def _ellipse(tone: int, x: float, y: float, rx: float, ry: float, start: float = 0.0, stop: float = 360.0) -> Part:
    angles = np.radians(np.linspace(start, stop, 41))
    return Part(np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], axis=1), tone)


def _smooth(tone: int, *points: tuple[float, float], steps: int = 8) -> Part:
    """Closed Catmull-Rom curve through the points."""
    knots = np.array(points, dtype=np.float64)
    before, after, second = np.roll(knots, 1, 0), np.roll(knots, -1, 0), np.roll(knots, -2, 0)
    t = np.linspace(0.0, 1.0, steps, endpoint=False)[None, :, None]
    p0, p1, p2, p3 = (array[:, None, :] for array in (before, knots, after, second))
    curve = 0.5 * (2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3)
    return Part(curve.reshape(-1, 2), tone)


def _ball() -> Silhouette:
    return [_ellipse(BODY, 0, 0, 1, 1)]


def _boat() -> Silhouette:
    return [
        _rectangle(WOOD, -0.06, -1.0, 0.06, 0.45),
        _polygon(BODY, (0.1, -1.0), (0.95, 0.28), (0.1, 0.28)),
        _polygon(LIGHT, (-0.1, -0.85), (-0.1, 0.28), (-0.8, 0.28)),
        _polygon(SHADE, (-1.0, 0.34), (1.0, 0.34), (0.68, 1.0), (-0.68, 1.0)),
    ]


def _bottle() -> Silhouette:
    body = [(0.2, -0.75), (0.2, -0.5), (0.5, -0.2), (0.52, 0.2), (0.52, 0.93), (0.46, 1.0)]
    mirrored = [(-x, y) for x, y in reversed(body)]
    return [_polygon(BODY, *body, *mirrored), _rectangle(DARK, -0.24, -1.0, 0.24, -0.74)]


def _box() -> Silhouette:
    return [
        _polygon(LIGHT, (-0.95, -0.45), (-0.4, -0.95), (1.0, -0.95), (0.5, -0.45)),
        _polygon(SHADE, (0.5, -0.45), (1.0, -0.95), (1.0, 0.4), (0.5, 0.9)),
        _rectangle(BODY, -0.95, -0.45, 0.5, 0.9),
        _polygon(DARK, (0.46, -0.45), (0.54, -0.45), (0.54, 0.9), (0.46, 0.9)),
        _rectangle(DARK, -0.95, -0.49, 0.5, -0.42),
    ]


def _car() -> Silhouette:
    return [
        _polygon(BODY, (-0.66, -0.1), (-0.42, -0.66), (0.32, -0.66), (0.62, -0.1)),
        _polygon(BODY, (-1, -0.04), (-0.94, -0.18), (0.72, -0.18), (0.98, 0.0), (1.0, 0.4), (-1.0, 0.4)),
        _polygon(GLASS, (-0.47, -0.2), (-0.32, -0.54), (-0.08, -0.54), (-0.08, -0.2)),
        _polygon(GLASS, (0.05, -0.2), (0.05, -0.54), (0.25, -0.54), (0.43, -0.2)),
        _ellipse(DARK, -0.55, 0.42, 0.23, 0.23),
        _ellipse(DARK, 0.55, 0.42, 0.23, 0.23),
        _ellipse(CREAM, -0.55, 0.42, 0.09, 0.09),
        _ellipse(CREAM, 0.55, 0.42, 0.09, 0.09),
    ]


def _cup() -> Silhouette:
    return [
        _ellipse(SHADE, 0.5, 0.0, 0.5, 0.48),
        _ellipse(HOLE, 0.52, 0.0, 0.27, 0.26),
        _polygon(BODY, (-0.9, -0.75), (0.55, -0.75), (0.38, 0.8), (0.2, 0.92), (-0.55, 0.92), (-0.73, 0.8)),
        _ellipse(LIGHT, -0.175, -0.75, 0.725, 0.2),
        _ellipse(DARK, -0.175, -0.74, 0.58, 0.12),
    ]


def _duck() -> Silhouette:
    return [
        _smooth(BODY, (-1.0, -0.15), (-0.55, 0.05), (0.1, -0.1), (0.65, 0.0), (0.75, 0.4), (0.3, 0.8), (-0.5, 0.78)),
        _ellipse(BODY, 0.45, -0.42, 0.4, 0.38),
        _polygon(BODY, (0.15, -0.3), (0.75, -0.2), (0.72, 0.2), (0.0, 0.2)),
        _polygon(WOOD, (0.78, -0.55), (1.1, -0.36), (0.78, -0.24)),
        _smooth(SHADE, (-0.6, 0.2), (-0.1, 0.12), (0.25, 0.3), (-0.1, 0.55), (-0.45, 0.45)),
        _ellipse(DARK, 0.55, -0.5, 0.08, 0.08),
    ]


def _fish() -> Silhouette:
    return [
        _polygon(SHADE, (-0.45, 0.0), (-1.0, -0.5), (-0.85, 0.0), (-1.0, 0.5)),
        _polygon(SHADE, (-0.2, -0.3), (0.1, -0.8), (0.4, -0.3)),
        _polygon(SHADE, (-0.1, 0.3), (0.0, 0.74), (0.3, 0.3)),
        _smooth(BODY, (-0.65, 0.0), (-0.1, -0.52), (0.5, -0.46), (1.0, 0.02), (0.5, 0.48), (-0.1, 0.52)),
        _ellipse(CREAM, 0.62, -0.1, 0.12, 0.12),
        _ellipse(DARK, 0.65, -0.1, 0.06, 0.06),
    ]


def _flower() -> Silhouette:
    angles = np.radians(np.arange(6) * 60.0)
    petals = [_ellipse(BODY, 0.6 * np.cos(angle), 0.6 * np.sin(angle), 0.38, 0.38) for angle in angles]
    return [*petals, _ellipse(BODY, 0, 0, 0.5, 0.5), _ellipse(WOOD, 0, 0, 0.27, 0.27)]


def _heart() -> Silhouette:
    t = np.linspace(0.0, 2 * np.pi, 61)
    x = np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 16.0
    return [Part(np.stack([x, y], axis=1), BODY)]


def _house() -> Silhouette:
    return [
        _rectangle(WOOD, 0.4, -0.85, 0.62, -0.3),
        _rectangle(BODY, -0.75, -0.2, 0.75, 0.95),
        _polygon(SHADE, (-1.0, -0.12), (0.0, -1.0), (1.0, -0.12)),
        _rectangle(DARK, -0.5, 0.3, -0.1, 0.95),
        _rectangle(GLASS, 0.15, 0.12, 0.55, 0.5),
    ]


def _mushroom() -> Silhouette:
    return [
        _polygon(CREAM, (-0.24, 0.0), (0.24, 0.0), (0.34, 0.95), (-0.34, 0.95)),
        _ellipse(BODY, 0, 0.1, 1.0, 1.05, 180, 360),
        _ellipse(SHADE, 0, 0.1, 1.0, 0.16),
    ]


def _star() -> Silhouette:
    angles = np.radians(np.arange(10) * 36.0 - 90.0)
    radii = np.where(np.arange(10) % 2 == 0, 1.0, 0.46)
    return [Part(np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1), BODY)]


def _tree() -> Silhouette:
    return [
        _rectangle(WOOD, -0.14, 0.5, 0.14, 1.0),
        _polygon(SHADE, (-0.78, 0.66), (0.78, 0.66), (0.0, -0.3)),
        _polygon(BODY, (-0.64, 0.2), (0.64, 0.2), (0.0, -0.65)),
        _polygon(LIGHT, (-0.48, -0.25), (0.48, -0.25), (0.0, -1.0)),
    ]


BUILDERS: dict[str, Callable[[], Silhouette]] = {
    "ball": _ball,
    "boat": _boat,
    "bottle": _bottle,
    "box": _box,
    "car": _car,
    "cup": _cup,
    "duck": _duck,
    "fish": _fish,
    "flower": _flower,
    "heart": _heart,
    "house": _house,
    "mushroom": _mushroom,
    "star": _star,
    "tree": _tree,
}

# Categories that look the same at any angle; the others stay upright within a small tilt.
ROTATABLE = frozenset({"ball", "flower", "star"})


def category_silhouette(category: str, rng: np.random.Generator) -> Silhouette:
    """Returns the category's parts with a random tilt, mirroring and stretch, in object coordinates."""
    turn = rng.uniform(0, 360) if category in ROTATABLE else rng.normal(0, 7)
    stretch = rng.uniform(0.9, 1.1) if category != "ball" else 1.0
    flip = bool(rng.random() < 0.5)
    return transform(BUILDERS[category](), turn, stretch, flip)


def transform(silhouette: Silhouette, turn: float, stretch: float, flip: bool) -> Silhouette:
    """Mirrors (flip), widens by the factor `stretch`, then rotates by `turn` degrees."""
    angle = np.radians(turn)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = rotation @ np.diag([-stretch if flip else stretch, 1.0])
    return [Part(part.points @ matrix.T, part.tone) for part in silhouette]


def extent(silhouette: Silhouette) -> tuple[np.ndarray, np.ndarray]:
    """Returns the lowest and highest coordinates (x, y) of all parts that are not holes."""
    points = np.concatenate([part.points for part in silhouette if part.tone != HOLE])
    return points.min(axis=0), points.max(axis=0)


def _blob(rng: np.random.Generator, tone: int = BODY, roughness: float = 0.35) -> Part:
    angles = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    radius = np.ones_like(angles)
    for order in range(2, 8):
        radius += roughness / order * rng.normal() * np.cos(order * angles + rng.uniform(0, 2 * np.pi))
    radius = np.clip(radius, 0.25, None)
    return Part(np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1), tone)


def _free_blob(rng: np.random.Generator) -> Silhouette:
    parts = [_blob(rng, roughness=rng.uniform(0.1, 0.5))]
    for _ in range(rng.integers(0, 4)):
        points = _blob(rng).points * rng.uniform(0.12, 0.35) + rng.uniform(-0.4, 0.4, 2)
        parts.append(Part(points, int(rng.integers(SHADE, TONE_COUNT))))
    return parts


def _free_polygon(rng: np.random.Generator) -> Silhouette:
    count = int(rng.integers(3, 9))
    angles = np.sort(rng.uniform(0, 2 * np.pi, count) * 0.25 + np.arange(count) * 2 * np.pi / count)
    radius = rng.uniform(0.55, 1.0, count)
    points = np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1)
    parts = [Part(points, BODY)]
    if rng.random() < 0.4:
        parts += [Part(points[[0, 1, 2]] * 0.9, SHADE), Part(points * 0.35, LIGHT)]
    return parts


def _free_ball(rng: np.random.Generator) -> Silhouette:
    """Balloon-, fruit- or egg-like: an ellipse with a knot or a stalk, sometimes segmented."""
    parts = [_ellipse(BODY, 0, 0, rng.uniform(0.6, 1.0), 1.0)]
    if rng.random() < 0.5:
        parts.insert(0, _polygon(SHADE, (-0.15, 1.2), (0.15, 1.2), (0.0, 0.9)))
    if rng.random() < 0.4:
        parts += [_ellipse(SHADE, 0, 0, 0.4, 0.97), _ellipse(BODY, 0, 0, 0.15, 0.95)]
    return parts


def _free_dish(rng: np.random.Generator) -> Silhouette:
    """Plate (concentric ellipses seen at a slant) or bowl."""
    tilt = rng.uniform(0.3, 1.0)
    if rng.random() < 0.5:
        inner = rng.uniform(0.55, 0.8)
        parts = [_ellipse(BODY, 0, 0, 1, tilt), _ellipse(LIGHT, 0, 0, inner, inner * tilt)]
        for _ in range(rng.integers(0, 5)):
            x, y = rng.uniform(-0.3, 0.3, 2)
            tone = int(rng.integers(SHADE, TONE_COUNT))
            parts.append(_ellipse(tone, x, y * tilt, rng.uniform(0.1, 0.3), rng.uniform(0.1, 0.3) * tilt))
        return parts
    return [_ellipse(BODY, 0, -0.2, 1, 0.9, 0, 180), _ellipse(SHADE, 0, -0.2, 1, 0.25), _ellipse(DARK, 0, -0.18, 0.88, 0.17)]


def _free_animal(rng: np.random.Generator) -> Silhouette:
    """Trunk, legs, neck, head and tail; four-legged or bird-like, depending on the proportions."""
    length, height = rng.uniform(0.55, 0.95), rng.uniform(0.3, 0.55)
    legs = int(rng.choice([0, 2, 4], p=[0.3, 0.3, 0.4]))
    leg_length = rng.uniform(0.3, 0.7)
    parts: Silhouette = []
    for x in np.linspace(-0.7, 0.7, legs) * length if legs else ():
        width = rng.uniform(0.06, 0.12)
        parts.append(_rectangle(SHADE, x - width, 0.1, x + width, height + leg_length))
    head_x, head_y = length * rng.uniform(0.8, 1.2), -height * rng.uniform(0.2, 1.8)
    head = rng.uniform(0.2, 0.35)
    parts.append(
        _polygon(
            BODY,
            (length * 0.2, -height * 0.8),
            (head_x - head * 0.4, head_y - head * 0.5),
            (head_x + head * 0.5, head_y + head * 0.6),
            (length * 0.9, height * 0.5),
        )
    )
    parts.append(_polygon(SHADE, (-length * 0.8, -0.1), (-length * 1.35, rng.uniform(-0.6, 0.4)), (-length * 0.8, 0.12)))
    parts.append(_ellipse(BODY, 0, 0, length, height))
    parts.append(_ellipse(int(rng.choice([BODY, LIGHT, DARK])), head_x, head_y, head * 1.2, head))
    if rng.random() < 0.5:
        parts.append(_polygon(WOOD, (head_x + head, head_y - 0.1), (head_x + head * 2, head_y), (head_x + head, head_y + 0.1)))
    for _ in range(rng.integers(0, 5)):
        points = _blob(rng).points * rng.uniform(0.1, 0.28) + (rng.uniform(-0.5, 0.5) * length, rng.uniform(-0.4, 0.3) * height)
        parts.append(Part(points, int(rng.choice([DARK, LIGHT, CREAM]))))
    return parts


def _free_standing(rng: np.random.Generator) -> Silhouette:
    """Upright and stacked like a penguin, a person or a jar: base, trunk, top."""
    width = rng.uniform(0.25, 0.5)
    parts = [
        _smooth(
            BODY,
            (-width * 0.6, -0.6),
            (width * 0.6, -0.6),
            (width, 0.1),
            (width * 0.8, 0.95),
            (-width * 0.8, 0.95),
            (-width, 0.1),
        )
    ]
    if rng.random() < 0.6:
        parts.append(_ellipse(int(rng.choice([LIGHT, CREAM])), width * 0.15, 0.25, width * 0.6, 0.55))
    if rng.random() < 0.4:
        parts.insert(0, _polygon(SHADE, (-width * 0.7, -0.45), (-width * 1.7, 0.4), (-width * 0.5, 0.2)))
        parts.insert(0, _polygon(SHADE, (width * 0.7, -0.45), (width * 1.7, 0.4), (width * 0.5, 0.2)))
    top = rng.uniform(0.18, 0.32)
    parts.append(_ellipse(int(rng.choice([BODY, DARK, WOOD, LIGHT])), 0, -0.72, top, top * 1.1))
    return parts


def _free_vehicle(rng: np.random.Generator) -> Silhouette:
    """Cargo box, cab, windows and wheels."""
    top, split = rng.uniform(-0.7, -0.2), rng.uniform(0.2, 0.6)
    parts = [
        _rectangle(int(rng.choice([BODY, LIGHT, SHADE])), -1.0, top, split, 0.3),
        _polygon(BODY, (split, -0.35), (0.8, -0.35), (1.0, 0.0), (1.0, 0.3), (split, 0.3)),
        _polygon(GLASS, (split + 0.06, -0.25), (0.74, -0.25), (0.9, 0.0), (split + 0.06, 0.0)),
        _rectangle(DARK, -1.0, 0.28, 1.0, 0.36),
    ]
    for x in (-0.65, -0.25, 0.7)[int(rng.integers(0, 2)) :]:
        parts += [_ellipse(DARK, x, 0.4, 0.2, 0.2), _ellipse(CREAM, x, 0.4, 0.08, 0.08)]
    return parts


def _free_packet(rng: np.random.Generator) -> Silhouette:
    """A box or packet with bands and a label."""
    width = rng.uniform(0.45, 1.0)
    parts = [_rectangle(BODY, -width, -1, width, 1)]
    if rng.random() < 0.6:
        depth = rng.uniform(0.15, 0.4)
        parts.append(
            _polygon(SHADE, (width, -1), (width + depth, -1 - depth * 0.6), (width + depth, 1 - depth * 0.6), (width, 1))
        )
        parts.append(
            _polygon(LIGHT, (-width, -1), (-width + depth, -1 - depth * 0.6), (width + depth, -1 - depth * 0.6), (width, -1))
        )
    for _ in range(rng.integers(0, 4)):
        y = rng.uniform(-0.9, 0.7)
        parts.append(_rectangle(int(rng.integers(SHADE, TONE_COUNT)), -width, y, width, y + rng.uniform(0.1, 0.4)))
    return parts


_FREE_BUILDERS: tuple[Callable[[np.random.Generator], Silhouette], ...] = (
    _free_blob,
    _free_polygon,
    _free_ball,
    _free_dish,
    _free_animal,
    _free_animal,
    _free_standing,
    _free_vehicle,
    _free_packet,
)


def free_silhouette(rng: np.random.Generator) -> Silhouette:
    """Draws a form without a category, in object coordinates."""
    return _FREE_BUILDERS[int(rng.integers(len(_FREE_BUILDERS)))](rng)
