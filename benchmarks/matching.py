"""Matching CutLER's masks with SAM's, against the double loop over all pairs.

    python benchmarks/matching.py --cutler 50 --sam 200 --height 480 --width 640

Both find, for random ellipses, each CutLER mask's SAM mask by the largest IoU (`--rule intersection`: the paper's), without
deduplication; equal matches are asserted. One thread. The last line is one JSON object; `ratio` is of seconds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import in_fresh_process, peak_bytes, print_json, print_table

from pseudo_ris.config import MatchingConfig
from pseudo_ris.masks.matching import match_masks

Matcher = Callable[[np.ndarray, np.ndarray, str], list[int | None]]
REPEATS = 5


def draw_ellipses(count: int, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """bool [count, height, width]: ellipses with half-axes up to a quarter of the image's sides."""
    y, x = np.mgrid[:height, :width]
    masks = np.zeros((count, height, width), bool)
    for mask in masks:
        centre_y, centre_x = rng.uniform(0, height), rng.uniform(0, width)
        half_y, half_x = rng.uniform(10, height / 4), rng.uniform(10, width / 4)
        mask[:] = ((y - centre_y) / half_y) ** 2 + ((x - centre_x) / half_x) ** 2 < 1
    return masks


def ours(cutlers: np.ndarray, sams: np.ndarray, rule: str) -> list[int | None]:
    """The library's matching."""
    matched = {match.cutler_index: match.sam_index for match in match_masks(cutlers, sams, MatchingConfig(rule, False, 0.0))}
    return [matched.get(index) for index in range(len(cutlers))]


def double_loop(cutlers: np.ndarray, sams: np.ndarray, rule: str) -> list[int | None]:
    """The obvious matching: every pair of masks, pixel by pixel."""
    choices: list[int | None] = []
    for cutler in cutlers:
        best, choice = (0.0, 0.0), None
        for index, sam in enumerate(sams):
            overlap = float((cutler & sam).sum())
            iou = overlap / max(1, (cutler | sam).sum())
            value = (overlap, iou) if rule == "intersection" else (iou, overlap)
            if overlap and value > best:
                best, choice = value, index
        choices.append(choice)
    return choices


def measure(matcher: Matcher, sizes: tuple[int, int, int, int], rule: str, seed: int, repeats: int) -> tuple[float, int, list]:
    """Seconds of the fastest of `repeats` runs, peak bytes of the process, and what was matched."""
    cutler_count, sam_count, height, width = sizes
    rng = np.random.default_rng(seed)
    cutlers, sams = (draw_ellipses(count, height, width, rng) for count in (cutler_count, sam_count))
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        matches = matcher(cutlers, sams, rule)
        seconds.append(time.perf_counter() - started)
    return min(seconds), peak_bytes(), matches


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=Path(__file__).name)
    for name, default in (("cutler", 50), ("sam", 200), ("height", 480), ("width", 640), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--rule", choices=("iou", "intersection"), default="iou")
    options = parser.parse_args()
    sizes = (options.cutler, options.sam, options.height, options.width)
    arguments = (sizes, options.rule, options.seed)
    our_seconds, our_peak, our_matches = in_fresh_process(measure, ours, *arguments, REPEATS, threads=1)
    loop_seconds, loop_peak, loop_matches = in_fresh_process(measure, double_loop, *arguments, 1, threads=1)
    if our_matches != loop_matches:
        raise SystemExit("the matches differ")
    print_table(
        ["matching", "seconds", "peak MiB"],
        [["ours", our_seconds, our_peak / 2**20], ["double loop", loop_seconds, loop_peak / 2**20]],
    )
    print_json(
        {
            "benchmark": "matching",
            "sizes": list(sizes),
            "rule": options.rule,
            "ratio": loop_seconds / our_seconds,
            "seconds_ours": our_seconds,
            "seconds_reference": loop_seconds,
            "peak_bytes_ours": our_peak,
            "peak_bytes_reference": loop_peak,
            "equal_matches": True,
        }
    )


if __name__ == "__main__":
    main()
