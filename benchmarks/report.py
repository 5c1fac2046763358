"""The quality report of drawn scenes with random scores: seconds to write it, and to open it in Chromium.

    python benchmarks/report.py --masks 5000 --candidates 44

Scenes and their pairs are drawn first and not counted; `--data DIR` keeps them there for the next run. The report is written
in a fresh process with one thread. Random scores make every candidate differ, so that the page is larger than that of real
pairs. The page is opened `--opens` times with a fresh profile each, from the request to its painting. The last line is one JSON
object.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from chromium import missing_program, open_chromium, open_page
from common import in_fresh_process, peak_bytes, print_json, print_table
from PIL import Image

from pseudo_ris.captions.crops import CROP_SETS
from pseudo_ris.config import DecodingConfig, ScoringConfig
from pseudo_ris.io.boxes import box_of
from pseudo_ris.io.images import read_bytes
from pseudo_ris.pairs.assembly import write_pairs
from pseudo_ris.records import CaptionRecord, ImageRecord, MaskCaptions, MaskRecord
from pseudo_ris.storage.caption_parts import Part
from pseudo_ris.storage.mask_store import MaskStore
from pseudo_ris.world.grammar import sample_caption
from pseudo_ris.world.scenes import Scene, draw_scene

NAME = "pairs"
STRATEGIES = ("beam", *(f"top_k_{k}" for k in DecodingConfig().top_k), *(f"top_p_{p:g}" for p in DecodingConfig().top_p))


def draw_data(folder: Path, masks: int, candidates: int, seed: int) -> None:
    """Writes scenes until they have `masks` masks, their masks and a pairs CSV with random scores."""
    rng = np.random.default_rng(seed)
    images, store = folder / "images", MaskStore(folder / "masks")
    images.mkdir(parents=True, exist_ok=True)
    store.prepare()
    parts = []
    for index in range(masks):
        scene = draw_scene("evaluation", seed, index)
        count = min(len(scene.objects), masks)
        name = f"scene_{index:05d}.png"
        Image.fromarray(scene.image).save(images / name)
        record = ImageRecord(name[:-4], name, lambda name=name: read_bytes(images / name))
        drawn = [MaskRecord(number, mask, box_of(mask), 1.0, "sam") for number, mask in enumerate(scene.masks[:count])]
        store.write(record, "drawn", drawn, *scene.image.shape[:2])
        captions = tuple(random_captions(scene, number, count, candidates, rng) for number in range(count))
        parts.append(Part(record.image_id, name, captions))
        masks -= count
        if not masks:
            break
    write_pairs(parts, folder, NAME, ScoringConfig())


def random_captions(scene: Scene, index: int, masks: int, candidates: int, rng: np.random.Generator) -> MaskCaptions:
    """Captions of an object with scores of the usual size that have nothing to do with them."""
    ways = islice(cycle((crop_set, strategy) for crop_set in CROP_SETS for strategy in STRATEGIES), candidates)
    rivals = [other for other in range(masks) if other != index] or [None]
    scored = []
    for crop_set, strategy in ways:
        masked_score, crop_score = rng.normal(7, 0.5, 2).round(6).tolist()
        uniqueness, doc = np.exp(rng.normal(0.2, 0.5, 2)).round(6).tolist()
        scored.append(
            CaptionRecord(
                text=sample_caption(scene.objects[index], rng),
                crop_set=crop_set,
                strategy=strategy,
                noun=scene.objects[index].category,
                masked_score=masked_score,
                crop_score=crop_score,
                uniqueness=uniqueness,
                correctness=masked_score,
                doc=doc,
                rival=rivals[int(rng.integers(len(rivals)))],
            )
        )
    return MaskCaptions(index, masks == 1, tuple(scored))


def write(folder: Path, output: Path, max_images: int) -> tuple[float, float, int, int]:
    """Seconds, CPU seconds, peak bytes of the process, and masks of a report's gallery; the report's imports are counted."""
    started, cpu_started = time.perf_counter(), time.process_time()
    from pseudo_ris.report.write import write_report

    threshold = ScoringConfig().threshold
    report = write_report(folder / f"{NAME}.csv", folder / "images", folder / "masks", output, threshold, max_images)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    return seconds, cpu_seconds, peak_bytes(), len(report.gallery["masks"]["seg"])


def open_once(output: Path) -> float:
    """Seconds from the request to the painted page, in a browser that has just started."""
    with open_chromium() as driver:
        started = time.perf_counter()
        open_page(driver, output)
        return time.perf_counter() - started


@contextmanager
def data_folder(kept: Path | None) -> Iterator[Path]:
    """Where the drawn data lies: `kept`, or a folder for this run only."""
    if kept is not None:
        yield kept
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def main() -> None:
    """The command line above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("masks", 5000), ("candidates", 44), ("max-images", 2000), ("opens", 3), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--data", type=Path, help="folder of the drawn data, used again when it is there")
    options = parser.parse_args()
    if reason := missing_program():
        raise SystemExit(reason)
    with data_folder(options.data) as folder:
        if not (folder / f"{NAME}.csv").exists():
            draw_data(folder, options.masks, options.candidates, options.seed)
        output = folder / "report.html"
        seconds, cpu_seconds, peak, masks = in_fresh_process(write, folder, output, options.max_images, threads=1)
        opened = [open_once(output) for _ in range(options.opens)]
        size = output.stat().st_size
    rows = [
        ["write, s", seconds],
        ["write, CPU s", cpu_seconds],
        ["peak MiB", peak / 2**20],
        ["page MB", size / 1e6],
        ["open, s, slowest", max(opened)],
    ]
    print_table(["report", f"{masks} masks"], rows)
    print_json(
        {
            "benchmark": "report",
            "masks": masks,
            "candidates": masks * options.candidates,
            "write_seconds": seconds,
            "write_cpu_seconds": cpu_seconds,
            "peak_bytes": peak,
            "page_bytes": size,
            "open_seconds": [round(each, 3) for each in opened],
        }
    )


if __name__ == "__main__":
    main()
