"""Both stages on the 24 demo scenes: images a second, where the time goes, and the ratio to an earlier revision.

    python benchmarks/end_to_end.py --reference af55615          a revision of this repository (default: before faster decoding)
    python benchmarks/end_to_end.py --reference f854983 --rounds 6    small differences: by turns, the median

Each stage is run by its script in a fresh process, with this checkout and with the files of the reference revision by turns, in
the same environment; which is first changes from round to round. Seconds are the median over the rounds: those of the stages'
own closing lines (without imports, with loading the models), and those of the whole processes.

The last line is one JSON object; `ratio` is of images a second through both stages by the closing lines, `process_ratio` by the
processes. How many masks are equal, how many of them have equal expressions, and by how much DoC then differs stands beside it.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import wraps
from pathlib import Path
from typing import Any

from common import in_fresh_process, print_json, print_table

from pseudo_ris.pairs.assembly import read_pairs
from pseudo_ris.pairs.rows import Row

ROOT = Path(__file__).parents[1]
BEFORE = "af55615c73"
STAGE1 = Path("generate_masks", "cutler_sam_masks.py")
STAGE2 = Path("generate_pseudo_supervision", "distinctive_caption_generation.py")
PAIRS = "distinctive_captions_cc3m.csv"


@dataclass(frozen=True)
class Figures:
    """One revision.

    images: made. seconds, process_seconds: of the closing lines and of the processes, by stage as `peak_gib`. masks: the files.
    rows: of its pairs, by mask.
    """

    images: int
    seconds: dict[str, float]
    process_seconds: dict[str, float]
    peak_gib: dict[str, float | None] = field(default_factory=dict)
    masks: dict[str, bytes] = field(default_factory=dict)
    rows: dict[tuple[str, int], Row] = field(default_factory=dict)


def checkout(revision: str, folder: Path) -> Path:
    """The files of a revision in `folder`."""
    archive = subprocess.run(["git", "archive", revision], cwd=ROOT, capture_output=True)
    if archive.returncode:
        raise SystemExit(f"{revision}: no such revision here; give another by --reference")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    return folder


def run_stages(tree: Path, output: Path, threads: int) -> Figures:
    """Runs both scripts of `tree` on its demo scenes."""
    masks, pairs = output / "masks", output / "pairs"
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": str(threads)}
    common = ["--images", str(ROOT / "datasets" / "demo" / "images"), "--masks", str(masks)]
    seconds: dict[str, float] = {}
    process_seconds: dict[str, float] = {}
    peaks: dict[str, float | None] = {}
    images = 0
    for stage, command in {"masks": [STAGE1, *common], "expressions": [STAGE2, *common, "--output", str(pairs)]}.items():
        started = time.perf_counter()
        shown = subprocess.run(
            [sys.executable, *map(str, command)], cwd=tree, env=environment, check=True, capture_output=True, text=True
        ).stdout
        process_seconds[stage] = time.perf_counter() - started
        images, each = re.search(r"(\d+) made, ([\d.]+) s each", shown).groups()
        images, seconds[stage] = int(images), int(images) * float(each)
        peak = re.search(r"peak memory ([\d.]+) GiB", shown)
        peaks[stage] = float(peak[1]) if peak else None
    written = {path.relative_to(masks).as_posix(): path.read_bytes() for path in sorted(masks.glob("*/*.png"))}
    rows = {(row["img_id"], row["seg_id"]): row for row in read_pairs(pairs / PAIRS)}
    return Figures(images, seconds, process_seconds, peaks, written, rows)


def by_turns(trees: Mapping[str, Path], output: Path, threads: int, rounds: int) -> dict[str, Figures]:
    """Runs both stages of every tree `rounds` times; its figures with the median seconds of each stage."""
    runs: dict[str, list[Figures]] = {name: [] for name in trees}
    for number in range(rounds):
        for name in list(trees)[:: -1 if number % 2 else 1]:
            run = run_stages(trees[name], output / f"{name}_{number}", threads)
            took = (f"{stage} {run.seconds[stage]:.1f} ({run.process_seconds[stage]:.1f}) s" for stage in run.seconds)
            print(f"round {number + 1}, {name}: {', '.join(took)}")
            runs[name].append(run)
    return {
        name: replace(
            of[0],
            seconds=medians([run.seconds for run in of]),
            process_seconds=medians([run.process_seconds for run in of]),
        )
        for name, of in runs.items()
    }


def medians(seconds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median by stage."""
    return {stage: statistics.median(each[stage] for each in seconds) for stage in seconds[0]}


def timed(owner: Any, name: str, step: str, spent: dict[str, float], inner: list[float]) -> None:
    """Replaces a function by one that adds the time it takes, without that of other timed ones inside it, to `spent[step]`."""
    function: Callable[..., Any] = getattr(owner, name)

    @wraps(function)
    def wrapper(*arguments: Any, **options: Any) -> Any:
        inner.append(0.0)
        started = time.perf_counter()
        try:
            return function(*arguments, **options)
        finally:
            took = time.perf_counter() - started
            spent[step] += took - inner.pop()
            if inner:
                inner[-1] += took

    setattr(owner, name, wrapper)


def profile(threads: int) -> Mapping[str, float]:
    """Seconds by step of both stages of this checkout; run in a process of its own, whose functions it replaces."""
    import torch

    import generate_masks.cutler_sam_masks as stage1
    import generate_pseudo_supervision.distinctive_caption_generation as stage2
    from pseudo_ris.captions import distinctive
    from pseudo_ris.distinctiveness import score
    from pseudo_ris.masks import pipeline
    from pseudo_ris.models.clip.scorer import ClipScorer
    from pseudo_ris.models.coca.captioner import CocaCaptioner
    from pseudo_ris.models.cutler.detector import Cutler
    from pseudo_ris.models.sam.segmenter import AutomaticSam
    from pseudo_ris.storage.caption_parts import PartStore
    from pseudo_ris.storage.mask_store import MaskStore

    torch.set_num_threads(threads)
    spent: dict[str, float] = defaultdict(float)
    inner: list[float] = []
    for owner, name, step in (
        (stage1, "decode_image", "1 decoding images"),
        (Cutler, "detect", "1 CutLER"),
        (AutomaticSam, "generate", "1 SAM"),
        (pipeline, "match_masks", "1 matching"),
        (MaskStore, "write", "1 writing"),
        (stage1, "draw_masks", "1 loading models, the rest"),
        (distinctive, "cut_crops", "2 crops"),
        (score, "cut_crops", "2 crops"),
        (CocaCaptioner, "encode", "2 CoCa image encoder"),
        (distinctive, "beam_search", "2 beam search"),
        (distinctive, "sample", "2 distinctive sampling"),
        (ClipScorer, "embed_images", "2 CLIP images"),
        (ClipScorer, "embed_texts", "2 CLIP texts"),
        (stage2, "score_candidates", "2 scoring, nouns"),
        (stage2, "write_candidates", "2 loading models, the rest"),
        (PartStore, "write", "2 writing"),
    ):
        timed(owner, name, step, spent, inner)
    with tempfile.TemporaryDirectory() as folder:
        stage1.main(["--masks", f"{folder}/masks"])
        stage2.main(["--masks", f"{folder}/masks", "--output", f"{folder}/pairs"])
    return dict(spent)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", default=BEFORE, metavar="REVISION")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--rounds", type=int, default=1, help="how often both are run, by turns (default: 1)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        trees = {"reference": checkout(options.reference, Path(folder, "tree")), "this checkout": ROOT}
        reference, ours = by_turns(trees, Path(folder), options.threads, options.rounds).values()
    steps = in_fresh_process(profile, options.threads, threads=options.threads)
    total = sum(steps.values())
    print_table(["step", "seconds", "share"], [[step, steps[step], steps[step] / total] for step in sorted(steps)])
    print_table(
        ["revision", "images/s", "stage 1, s", "stage 2, s", "process 1, s", "process 2, s"],
        [
            [name, rate(figures), *figures.seconds.values(), *figures.process_seconds.values()]
            for name, figures in ((options.reference, reference), ("this checkout", ours))
        ],
    )
    both = [(row, reference.rows[mask]) for mask, row in ours.rows.items() if mask in reference.rows]
    same = [(row["doc"], other["doc"]) for row, other in both if row["pseudo_caption"] == other["pseudo_caption"]]
    print_json(
        {
            "benchmark": "end_to_end",
            "ratio": rate(ours) / rate(reference),
            "process_ratio": sum(reference.process_seconds.values()) / sum(ours.process_seconds.values()),
            "images_per_second": rate(ours),
            "images_per_second_reference": rate(reference),
            "seconds": ours.seconds,
            "seconds_reference": reference.seconds,
            "process_seconds": ours.process_seconds,
            "process_seconds_reference": reference.process_seconds,
            "peak_gib": ours.peak_gib,
            "masks": len(ours.masks),
            "equal_masks": sum(reference.masks.get(name) == data for name, data in ours.masks.items()),
            "rows": len(ours.rows),
            "rows_of_equal_expressions": len(same),
            "doc_difference": max((max(abs(a - b) for a, b in zip(*each, strict=True)) for each in same), default=None),
            "threads": options.threads,
            "rounds": options.rounds,
            "reference": options.reference,
        }
    )


def rate(figures: Figures) -> float:
    """Images a second through both stages."""
    return figures.images / sum(figures.seconds.values())


if __name__ == "__main__":
    main()
