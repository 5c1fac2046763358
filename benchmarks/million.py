"""Very many finished images: how they come into shards, how a run finds what is missing, how the pairs are put together.

    python benchmarks/million.py --parts 1000000 --shard-size 1000

Parts of one mask with two candidates are made up, and go through PartStore, Run and the compactor as stage 2's do; images end
in the order of 64 workers, not of the list. Then some are planted: shards cut short, images changed, rows taken out; a run has
to find just these, makes them again, and the pairs are assembled. Image files are there but empty: they are looked at, not
read. Each run in a fresh process with one thread. Seconds: `list` of listing the images, which each run does first; `resume`
until it knows what is missing; `making` of making that, `compaction` of the latter what is spent on shards; `assembly` of
writing the pairs. The last line is one JSON object, with the peak memory of each run, the most files that were in the output
at any time, and how many planted images were found.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from common import in_fresh_process, peak_bytes, print_json, print_table

from pseudo_ris.config import ScoringConfig, SourceConfig
from pseudo_ris.io.files import digest
from pseudo_ris.io.images import list_images
from pseudo_ris.pairs.assembly import write_pairs
from pseudo_ris.records import CaptionRecord, ImageRecord, MaskCaptions
from pseudo_ris.runtime.image_loop import Outcome
from pseudo_ris.runtime.runs import Run
from pseudo_ris.runtime.shares import ALL
from pseudo_ris.sources.fingerprints import image_fingerprints
from pseudo_ris.storage.caption_parts import PartStore
from pseudo_ris.storage.compaction.archive import shard_paths
from pseudo_ris.storage.compaction.compactor import Compactor, compacting
from pseudo_ris.storage.compaction.rows import read_rows, write_shard

NAME = "pairs"
A_FOLDER = 1000
WORKERS = 64
CUT_SHARDS, CHANGED_IMAGES, MISSING_ROWS = 3, 200, 200


def make_images(images: Path, count: int) -> None:
    """Empty files, a thousand a folder."""
    for number in range(count):
        if number % A_FOLDER == 0:
            folder = images / f"{number // A_FOLDER:05d}"
            folder.mkdir(parents=True)
        os.close(os.open(f"{folder}/{number:09d}.jpg", os.O_CREAT | os.O_WRONLY))


@contextmanager
def opened(folder: Path, size: int) -> Iterator[tuple[PartStore, Run, Compactor, list[ImageRecord], dict[str, float]]]:
    """A run's store, itself, its compactor, the images it has to look at, and the seconds until it knew them."""
    seconds = {"list": -time.perf_counter()}
    records = list_images(folder / "images")
    seconds["list"] += time.perf_counter()
    store = PartStore(folder / "output", NAME)
    look = partial(image_fingerprints, SourceConfig(images=str(folder / "images")), "settings")
    with store.working(ALL):
        begun = time.perf_counter()
        with (
            compacting(store, records, size, ALL, look) as keeper,
            Run("million", store.output, records, False, ALL, keeper) as run,
        ):
            assert isinstance(keeper, Compactor)
            waiting = run.usable()
            seconds["resume"] = time.perf_counter() - begun
            yield store, run, keeper, waiting, seconds


def write_part(store: PartStore, record: ImageRecord) -> Outcome:
    """What a worker does with an image."""
    key, number = digest("settings", record.name), int(record.image_id[-6:])
    captions = tuple(
        CaptionRecord(f"the {text} {number}", "image_1.2", strategy, "ball", 20.1, 21.3, 1.1, 20.1, 1.0 + number % 7 / 10, None)
        for text, strategy in (("red ball near the lamp", "beam"), ("small striped one", "top_k_5"))
    )
    store.write(record, key, [MaskCaptions(0, True, captions)])
    return Outcome(record.name, "made", key=key)


def make_missing(folder: Path, size: int) -> dict[str, float]:
    """A run that makes what is not there; the figures of the benchmark."""
    most = 0
    with opened(folder, size) as (store, run, keeper, waiting, seconds):
        seconds["making"] = -time.perf_counter()
        keeper.settled = timed(keeper.settled, seconds)  # type: ignore[method-assign]
        for number, record in enumerate(in_order_of_workers(waiting)):
            outcome = write_part(store, record)
            if number % max(1, size // 4) == 0 or number == len(waiting) - 1:
                most = max(most, count_files(store.output))
            run.take(record, outcome)
        seconds["making"] += time.perf_counter()
        run.close()
    return seconds | {"found": len(waiting), "most_files": most, "peak": peak_bytes()}


def assemble(folder: Path, size: int) -> dict[str, float]:
    """A run that has nothing to make, and the pairs."""
    with opened(folder, size) as (store, run, _, waiting, seconds):
        begun = time.perf_counter()
        totals = write_pairs(store.read_all(run.current()), store.output, NAME, ScoringConfig())
        seconds["assembly"] = time.perf_counter() - begun
        run.close()
    return seconds | {"found": len(waiting), "images": totals.images, "peak": peak_bytes()}


def timed(work: Callable[[ImageRecord, Outcome], None], seconds: dict[str, float]) -> Callable[[ImageRecord, Outcome], None]:
    """`work`, adding up its seconds."""
    seconds["compaction"] = 0.0

    def timed_work(record: ImageRecord, outcome: Outcome) -> None:
        begun = time.perf_counter()
        work(record, outcome)
        seconds["compaction"] += time.perf_counter() - begun

    return timed_work


def in_order_of_workers(records: Sequence[ImageRecord]) -> Iterator[ImageRecord]:
    """As images end when WORKERS work on them and each takes as long as it takes."""
    rng = random.Random(0)
    at_work: list[ImageRecord] = []
    for record in records:
        at_work.append(record)
        if len(at_work) == WORKERS:
            yield at_work.pop(rng.randrange(WORKERS))
    yield from at_work


def count_files(folder: Path) -> int:
    """All files in a folder."""
    return sum(len(files) for _, _, files in os.walk(folder))


def plant(folder: Path, size: int) -> int:
    """Cuts shards short, changes images and takes rows out; returns how many images are concerned."""
    rng = random.Random(1)
    paths = shard_paths(PartStore(folder / "output", NAME).archive.folder)
    chosen = rng.sample(paths, 3 * CUT_SHARDS)
    cut, thinned, changed = (chosen[start::3] for start in range(3))
    planted = 0
    for path in cut:
        planted += len(list(read_rows(path)))
        os.truncate(path, path.stat().st_size * 2 // 3)
    for path in thinned:
        rows = list(read_rows(path))
        missing = {row.image_id for row in rng.sample(rows, MISSING_ROWS // CUT_SHARDS)}
        write_shard(path, [row for row in rows if row.image_id not in missing])
        # The index does not speak of these rows: the whole shard is looked at.
        planted += len(rows)
    for path in changed:
        for row in rng.sample(list(read_rows(path)), CHANGED_IMAGES // CUT_SHARDS):
            os.utime(folder / "images" / row.image_name, ns=(1, 1))
            planted += 1
    return planted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=int, default=1_000_000)
    parser.add_argument("--shard-size", type=int, default=1000)
    parser.add_argument("--folder", type=Path, help="where the files go for the time being; default: the system's place")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        folder, size = Path(place), options.shard_size
        make_images(folder / "images", options.parts)
        made = in_fresh_process(make_missing, folder, size, threads=1)
        planted = plant(folder, size)
        resumed = in_fresh_process(make_missing, folder, size, threads=1)
        assembled = in_fresh_process(assemble, folder, size, threads=1)
        files = count_files(folder / "output")
    steps = {"made": made, "resumed": resumed, "assembled": assembled}
    columns = ("list", "resume", "making", "compaction", "assembly")
    print_table(
        ["run", *columns, "peak MiB"],
        [[name, *(step.get(column, "") for column in columns), step["peak"] / 2**20] for name, step in steps.items()],
    )
    print_json(
        {
            "benchmark": "million",
            "parts": options.parts,
            "shard_size": size,
            "seconds_list": resumed["list"],
            "seconds_making": made["making"],
            "seconds_compaction": made["compaction"],
            "seconds_resume": resumed["resume"],
            "seconds_assembly": assembled["assembly"],
            "planted": planted,
            "found": int(resumed["found"]),
            "found_afterwards": int(assembled["found"]),
            "images": int(assembled["images"]),
            "most_files": int(max(made["most_files"], resumed["most_files"])),
            "files_afterwards": files,
            **{f"peak_bytes_{name}": int(step["peak"]) for name, step in steps.items()},
        }
    )


if __name__ == "__main__":
    main()
