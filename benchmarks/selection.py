"""Selecting among a million candidates, against the loop over all rows.

    python benchmarks/selection.py --candidates 1000000 --preset recommended

Random pairs (44 candidates a mask, about half of a mask's sentences different, of 2 to 16 words) are written to a temporary
folder. Then `pseudo-ris select` runs in a fresh process: seconds are those of the whole command, with
the start of Python and all four files; peak memory is that process's. The loop reads the rows with read_pairs, asks open_clip's
tokenizer and kept_candidates mask by mask, and writes the CSV only; its seconds are without start and imports. Equal CSVs are
asserted. One thread each. The last line is one JSON object; `ratio` is of CPU seconds, which a busy machine does not change.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import in_fresh_process, peak_bytes, print_json, print_table
from open_clip.tokenizer import SimpleTokenizer

from pseudo_ris.pairs.assembly import FURTHER_COLUMNS, PAPER_COLUMNS, read_pairs
from pseudo_ris.pairs.files import writing_pairs
from pseudo_ris.pairs.selection import kept_candidates
from pseudo_ris.pairs.selection_rules import PRESETS
from pseudo_ris.records import CaptionRecord, MaskCaptions

ROOT = Path(__file__).parents[1]
COLUMNS = (*PAPER_COLUMNS, *FURTHER_COLUMNS)
A_MASK = 44
SENTENCES_A_MASK = 30
NOUNS = ("man", "woman", "dog", "horse", "zebra", "umbrella", "bicycle", "skateboarder", "table", "window", "fence", "plate")
WORDS = (*NOUNS, "a", "the", "red", "white", "small", "wooden", "of", "with", "in", "on", "near", "holding", "wearing", "left")
CROP_SETS = [crop_set for crop_set in ("masked", "image_1.0", "image_1.1", "image_1.2") for _ in range(A_MASK // 4)]
STRATEGIES = ["beam", *(f"top_k_{k}" for k in (5, 7, 9, 11, 13)), *(f"top_p_{p / 10}" for p in (4, 5, 6, 7, 8))] * 4
# The command as it is; it prints its peak memory when it ends, which its parent cannot see without its own.
COMMAND = """
import atexit, runpy, sys
def peak():
    status = open("/proc/self/status").read()
    print(int(status.split("VmHWM:")[1].split()[0]) * 1024, file=sys.stderr)
atexit.register(peak)
runpy.run_module("pseudo_ris.pairs.selection", run_name="__main__", alter_sys=True)
"""


@dataclass(frozen=True)
class Cost:
    """Seconds on the clock and of the CPU, and the most bytes of memory."""

    seconds: float
    cpu_seconds: float
    peak: int


def write_random_pairs(folder: Path, candidates: int, seed: int) -> Path:
    """A pairs CSV of so many candidates, rounded up to whole masks: one to five masks an image."""
    rng = np.random.default_rng(seed)
    image = left = 0
    with writing_pairs(folder, "pairs", COLUMNS) as writer:
        for _ in range(-(-candidates // A_MASK)):
            if not left:
                image, left = image + 1, int(rng.integers(1, 6))
                one_mask = left == 1
            left -= 1
            scores = {name: rng.lognormal(0.1, 0.25, A_MASK).round(6).tolist() for name in ("doc", "uniqueness")}
            logits = {
                name: rng.normal(21, 2, A_MASK).round(6).tolist() for name in ("correctness", "masked_score", "crop_score")
            }
            writer.write(
                {
                    "img_name": f"COCO_train2014_{image:012d}.jpg",
                    "img_id": str(image),
                    "seg_id": left,
                    "one_mask": int(one_mask),
                    "pseudo_caption": random_sentences(rng),
                    "rival": rng.integers(0, 5, A_MASK).tolist(),
                    "noun": [NOUNS[place] for place in rng.integers(len(NOUNS), size=A_MASK)],
                    "crop_set": CROP_SETS,
                    "strategy": STRATEGIES,
                    **scores,
                    **logits,
                }
            )
    return folder / "pairs.csv"


def random_sentences(rng: np.random.Generator) -> list[str]:
    """The sentences of a mask; every third ends in a full stop."""
    lengths = rng.integers(2, 17, SENTENCES_A_MASK)
    words = [WORDS[place] for place in rng.integers(len(WORDS), size=lengths.sum())]
    ends = np.cumsum(lengths)
    sentences = [
        " ".join(words[end - length : end]) + (" ." if end % 3 == 0 else "") for end, length in zip(ends, lengths, strict=True)
    ]
    return [sentences[place] for place in rng.integers(SENTENCES_A_MASK, size=A_MASK)]


def run_command(pairs: Path, output: Path, preset: str) -> tuple[Cost, str]:
    """The command, and the table it prints."""
    arguments = ["--pairs", str(pairs), "--output", str(output), "--preset", preset]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    started, cpu_started = time.perf_counter(), children_seconds()
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments], env=environment, check=True, capture_output=True, text=True
    )
    cost = Cost(time.perf_counter() - started, children_seconds() - cpu_started, int(done.stderr))
    return cost, done.stdout


def children_seconds() -> float:
    """CPU seconds of all processes that this one has started and that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def run_loop(pairs: Path, output: Path, preset: str) -> Cost:
    """The loop."""
    started, cpu_started = time.perf_counter(), time.process_time()
    rules, tokenizer = PRESETS[preset], SimpleTokenizer()
    rows: list[dict[str, object]] = []
    for row in read_pairs(pairs):
        records = []
        for place, text in enumerate(row["pseudo_caption"]):
            if rules.max_tokens is not None and 2 + len(tokenizer.encode(text)) > rules.max_tokens:
                continue
            if rules.duplicates == "drop" and text in {record.text for record in records}:
                continue
            values = {column: row[column][place] for column in FURTHER_COLUMNS}
            records.append(CaptionRecord(text=text, doc=row["doc"][place], **values))
        kept = kept_candidates(MaskCaptions(row["seg_id"], bool(row["one_mask"]), tuple(records)), rules.doc, rules.fallback)
        if kept:
            lists = {column: [getattr(record, column) for record in kept] for column in ("doc", *FURTHER_COLUMNS)}
            lists["pseudo_caption"] = [record.text for record in kept]
            rows.append({**row, "index": len(rows), "num_sent": len(kept), **lists})
    with output.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in rows:
            values = [row[column] for column in COLUMNS]
            writer.writerow(json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value for value in values)
    return Cost(time.perf_counter() - started, time.process_time() - cpu_started, peak_bytes())


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=Path(__file__).name)
    parser.add_argument("--candidates", type=int, default=1_000_000)
    parser.add_argument("--preset", choices=PRESETS, default="recommended")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        pairs = write_random_pairs(Path(place), options.candidates, options.seed)
        size = pairs.stat().st_size
        ours, theirs = Path(place) / "ours.csv", Path(place) / "loop.csv"
        command, table = run_command(pairs, ours, options.preset)
        loop = in_fresh_process(run_loop, pairs, theirs, options.preset, threads=1)
        if ours.read_bytes() != theirs.read_bytes():
            raise SystemExit("the selections differ")
    print(table)
    print_table(
        ["selection", "seconds", "CPU seconds", "peak MiB"],
        [[name, cost.seconds, cost.cpu_seconds, cost.peak / 2**20] for name, cost in (("ours", command), ("loop", loop))],
    )
    print_json(
        {
            "benchmark": "selection",
            "candidates": options.candidates,
            "preset": options.preset,
            "csv_bytes": size,
            "ratio": loop.cpu_seconds / command.cpu_seconds,
            "seconds_ours": command.seconds,
            "seconds_reference": loop.seconds,
            "cpu_seconds_ours": command.cpu_seconds,
            "cpu_seconds_reference": loop.cpu_seconds,
            "peak_bytes_ours": command.peak,
            "peak_bytes_reference": loop.peak,
            "equal_selection": True,
        }
    )


if __name__ == "__main__":
    main()
