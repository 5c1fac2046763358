"""Draws noise, backgrounds and camera effects of drawn scenes. Arrays are float32 RGB in 0..255."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

Rng = np.random.Generator

# Muted colours of soil, stone, cloth, sky and plants; saturated colours are reserved for objects.
_NATURAL = np.array(
    [
        (150, 140, 125), (180, 170, 150), (120, 105, 90), (110, 115, 95), (130, 145, 110), (150, 165, 175), (185, 195, 205),
        (95, 100, 110), (200, 190, 175), (165, 150, 155), (85, 90, 75), (140, 120, 105), (175, 180, 165), (125, 135, 145),
        (210, 205, 200), (105, 90, 85),
    ],
    dtype=np.float32,
)  # fmt: skip


def smooth_noise(rng: Rng, height: int, width: int, cell: float, stretch: float = 1.0) -> np.ndarray:
    """Returns value noise [height, width] in about -1..1. cell: grain size in pixels. stretch: elongation along y."""
    rows, columns = max(2, int(height / (cell * stretch)) + 2), max(2, int(width / cell) + 2)
    grid = rng.uniform(-1, 1, (rows, columns)).astype(np.float32)
    return cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)


def fractal_noise(rng: Rng, size: int, cell: float, octaves: int = 4, stretch: float = 1.0) -> np.ndarray:
    """Returns a sum of octaves of smooth noise [size, size]; each has half the grain and 0.55 of the strength of the last."""
    total = np.zeros((size, size), np.float32)
    for octave in range(octaves):
        total += 0.55**octave * smooth_noise(rng, size, size, max(1.0, cell / 2**octave), stretch)
    return total


def _natural_colour(rng: Rng) -> np.ndarray:
    colour = _NATURAL[rng.integers(len(_NATURAL))] * rng.uniform(0.65, 1.15)
    return np.clip(colour + rng.normal(0, 8, 3), 15, 245).astype(np.float32)


def _mix(first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
    share = np.clip(share, 0, 1)[..., None]
    return (first * (1 - share) + second * share).astype(np.float32)


def _ramp(rng: Rng, size: int) -> np.ndarray:
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size - 0.5
    return (x * np.cos(angle) + y * np.sin(angle) + 0.5).astype(np.float32)


def _gradient(rng: Rng, size: int) -> np.ndarray:
    return _mix(_natural_colour(rng), _natural_colour(rng), _ramp(rng, size) + 0.1 * fractal_noise(rng, size, 40, 3))


def _clouds(rng: Rng, size: int) -> np.ndarray:
    noise = fractal_noise(rng, size, rng.uniform(12, 80), 5)
    return _mix(_natural_colour(rng), _natural_colour(rng), 0.5 + rng.uniform(0.2, 0.5) * noise)


def _grass(rng: Rng, size: int) -> np.ndarray:
    base = np.array((95, 115, 65), np.float32) * rng.uniform(0.7, 1.3) + rng.normal(0, 12, 3).astype(np.float32)
    blades = smooth_noise(rng, size, size, rng.uniform(1.5, 3), rng.uniform(3, 6))
    patches = fractal_noise(rng, size, 60, 3)
    return base * (1 + rng.uniform(0.12, 0.3) * blades + 0.15 * patches)[..., None]


def _tiles(rng: Rng, size: int) -> np.ndarray:
    """Bricks or floor tiles with joints."""
    tile_width, tile_height = int(rng.integers(24, 64)), int(rng.integers(14, 48))
    y, x = np.mgrid[0:size, 0:size]
    row = y // tile_height
    shifted = x + (row % 2) * (tile_width // 2) * int(rng.random() < 0.6)
    column = shifted // tile_width
    tones = rng.normal(0, rng.uniform(0.02, 0.1), (size // tile_height + 2, size // tile_width + 3)).astype(np.float32)
    joint = (y % tile_height < 2) | (shifted % tile_width < 2)
    colour, joint_colour = _natural_colour(rng), _natural_colour(rng)
    shade = 1 + tones[row, column] + 0.06 * fractal_noise(rng, size, 10, 3)
    joint_share = cv2.GaussianBlur(joint.astype(np.float32), (0, 0), 0.8) * rng.uniform(0.3, 0.9)
    return _mix(colour * shade[..., None], joint_colour, joint_share)


def _planks(rng: Rng, size: int) -> np.ndarray:
    base = np.array((150, 115, 80), np.float32) * rng.uniform(0.55, 1.25) + rng.normal(0, 8, 3).astype(np.float32)
    width = int(rng.integers(22, 70))
    plank = np.arange(size) // width
    tone = rng.normal(1, 0.08, plank[-1] + 1).astype(np.float32)[plank]
    tone[np.arange(size) % width < 2] *= 0.65
    image = base * (tone[None, :] * (1 + 0.14 * fractal_noise(rng, size, 6, 3, stretch=12)))[..., None]
    return np.ascontiguousarray(image.transpose(1, 0, 2)) if rng.random() < 0.5 else image


def _weave(rng: Rng, size: int) -> np.ndarray:
    period = rng.uniform(4, 9)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) * (2 * np.pi / period)
    threads = np.sin(x) * np.sin(y) * rng.uniform(0.03, 0.12) + 0.1 * fractal_noise(rng, size, 70, 4)
    return _natural_colour(rng) * (1 + threads)[..., None]


def _horizon(rng: Rng, size: int) -> np.ndarray:
    """Sky or wall above, ground below."""
    level = rng.uniform(0.2, 0.7) * size + 6 * smooth_noise(rng, 1, size, 60)[0]
    y = np.arange(size, dtype=np.float32)[:, None]
    ground = np.clip((y - level[None, :]) / rng.uniform(1, 8) + 0.5, 0, 1)
    above = _mix(_natural_colour(rng), _natural_colour(rng), y / size + 0.15 * fractal_noise(rng, size, 60, 3))
    below = _BACKGROUNDS[int(rng.integers(1, 4))](rng, size)
    return _mix(above, below, ground)


def _clutter(rng: Rng, size: int) -> np.ndarray:
    """Out-of-focus clutter: many soft blobs and bars, blurred until they have no edges."""
    image = np.ascontiguousarray(_clouds(rng, size))
    for _ in range(rng.integers(12, 45)):
        colour = (_natural_colour(rng) + rng.normal(0, 18, 3)).clip(0, 255).tolist()
        centre = tuple(int(value) for value in rng.integers(-20, size + 20, 2))
        axes = tuple(int(value) for value in rng.integers(6, 60, 2))
        if rng.random() < 0.6:
            cv2.ellipse(image, centre, axes, float(rng.uniform(0, 180)), 0, 360, colour, -1)
        else:
            corners = cv2.boxPoints((centre, axes, float(rng.uniform(0, 90)))).astype(np.int32)
            cv2.fillPoly(image, [corners], colour)
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(3.5, 9))
    return image * (1 + 0.04 * fractal_noise(rng, size, 4, 2))[..., None]


def _strewn(rng: Rng, size: int) -> np.ndarray:
    """Pebbles or leaves: hundreds of small sharp ellipses in similar colours."""
    palette = np.stack([_natural_colour(rng) for _ in range(3)])
    if rng.random() < 0.5:
        palette = np.array((80, 110, 55), np.float32) * rng.uniform(0.5, 1.4, (3, 1)).astype(np.float32)
    image = np.full((size, size, 3), palette.mean(axis=0) * 0.6, np.float32)
    thickness, length = rng.uniform(1.5, 4), rng.uniform(3, 9)
    count = int(rng.integers(250, 600))
    centres = rng.integers(0, size, (count, 2))
    tones = palette[rng.integers(0, 3, count)] * rng.uniform(0.7, 1.25, (count, 1))
    angles = rng.uniform(0, 180, count)
    for centre, tone, angle in zip(centres.tolist(), tones.tolist(), angles.tolist(), strict=True):
        cv2.ellipse(image, centre, (int(length), int(thickness)), angle, 0, 360, tone, -1)
    return cv2.GaussianBlur(image, (0, 0), rng.uniform(0.6, 2.5))


def _water(rng: Rng, size: int) -> np.ndarray:
    ripples = np.ascontiguousarray(smooth_noise(rng, size, size, rng.uniform(2, 5), rng.uniform(4, 8)).T)
    swell = fractal_noise(rng, size, 50, 3)
    base = np.array((95, 120, 135), np.float32) * rng.uniform(0.5, 1.4) + rng.normal(0, 14, 3).astype(np.float32)
    return base * (1 + rng.uniform(0.08, 0.25) * ripples + 0.12 * swell)[..., None]


_BACKGROUNDS: tuple[Callable[[Rng, int], np.ndarray], ...] = (
    _gradient,
    _clouds,
    _grass,
    _planks,
    _tiles,
    _weave,
    _strewn,
    _water,
    _horizon,
    _clutter,
    _clutter,
)


def background(rng: Rng, size: int) -> np.ndarray:
    """Draws a textured background [size, size, 3] with uneven light."""
    image = _BACKGROUNDS[int(rng.integers(len(_BACKGROUNDS)))](rng, size)
    light = 1 + rng.uniform(0.0, 0.35) * (_ramp(rng, size) - 0.5) + 0.05 * smooth_noise(rng, size, size, 90)
    return np.clip(image * light[..., None], 0, 255).astype(np.float32)


def photograph(image: np.ndarray, rng: Rng, cast: float) -> np.ndarray:
    """Adds a colour cast of strength `cast`, slight blur, sensor noise and JPEG artefacts. Returns RGB uint8."""
    image = image * rng.normal(1, cast, 3).clip(0.5, 1.5).astype(np.float32)
    if rng.random() < 0.6:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.7))
    image = image + rng.standard_normal(image.shape, dtype=np.float32) * np.float32(rng.uniform(0.5, 3.5))
    pixels = np.clip(image + 0.5, 0, 255).astype(np.uint8)
    if rng.random() < 0.6:
        _, encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(60, 96))])
        pixels = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    return pixels
