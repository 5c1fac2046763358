"""The demo beside a process that keeps one core busy, and the demo alone.

    python benchmarks/busy_core.py                           the 24 demo scenes, once each
    python benchmarks/busy_core.py --rounds 3                several times, by turns; the median
    GOMP_SPINCOUNT=300000 python benchmarks/busy_core.py     with threads that spin while they wait, libgomp's own default

Runs the commands of scripts/demo.sh (both stages, the table, the contact sheet) in fresh processes with the threads that they
take by default. Results go to a temporary folder. The busy process is bound to no core; the system moves it as it likes.

The last line is one JSON object. `ratio` is of the seconds of all commands, beside the busy process to alone. On two cores the
busy process takes one, so that more than 2 means that waiting for it costs further time. Exit code 1: the results differ.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from common import print_json, print_table
from end_to_end import PAIRS, STAGE1, STAGE2
from stage_runs import watch_memory

from pseudo_ris.io.files import file_digest
from pseudo_ris.runtime.status_file import STATUS_FILES

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "datasets" / "demo"
BUSY = """
import os, sys
while os.getppid() == int(sys.argv[1]):
    sum(range(10**5))
"""


@dataclass(frozen=True)
class DemoRun:
    """One run of the demo.

    seconds: of each command's process. peak_bytes: its peak memory. results: digest of each file by name, and of what the
    table's command prints.
    """

    seconds: dict[str, float]
    peak_bytes: dict[str, int]
    results: dict[str, str]

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


COMMAND = "pseudo_ris.cli"
"""The module behind `pseudo-ris`."""


def demo_commands(scenes: Path, folder: Path) -> dict[str, list[str]]:
    """Arguments of the interpreter for each step of scripts/demo.sh, with results in `folder`."""
    pairs = f"{folder}/pairs"
    masks = ["--masks", f"{folder}/masks"]
    common = ["--images", f"{scenes}/images", *masks]
    return {
        "masks": [str(STAGE1), "--config", "configs/demo.yaml", *common],
        "expressions": [str(STAGE2), "--config", "configs/demo.yaml", *common, "--output", pairs],
        "table": ["-m", COMMAND, "lab", "summary", "--scenes", str(scenes), *masks, "--output", pairs],
        "sheet": ["-m", COMMAND, "contact-sheet", *common, "--pairs", f"{pairs}/{PAIRS}", "--sheet", f"{pairs}/sheet.png"],
    }


def run_demo(scenes: Path, folder: Path) -> DemoRun:
    """Runs the demo on drawn scenes; `folder` is new. Raises SystemExit with what a command said when it fails."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    seconds: dict[str, float] = {}
    peaks: dict[str, int] = {}
    folder.mkdir()
    for step, arguments in demo_commands(scenes, folder).items():
        said = folder / f"{step}.log"
        started = time.monotonic()
        with said.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, *arguments], cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT
            )
            peaks[step], _ = watch_memory(process)
        seconds[step] = time.monotonic() - started
        if process.returncode:
            raise SystemExit(f"{' '.join(arguments)}: exit code {process.returncode}\n{said.read_text()}")
        if step != "table":
            said.unlink()  # it says how long things took
    files = {path for path in folder.rglob("*") if path.is_file()} - set(folder.rglob(STATUS_FILES))
    return DemoRun(seconds, peaks, {path.relative_to(folder).as_posix(): file_digest(path) for path in sorted(files)})


@contextmanager
def busy_core() -> Iterator[psutil.Process]:
    """A process that keeps one core busy. It ends with the block, and soon after this process if that is killed."""
    process = psutil.Popen([sys.executable, "-c", BUSY, str(os.getpid())])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def run_beside_busy_core(scenes: Path, folder: Path) -> tuple[DemoRun, float]:
    """A run of the demo and the share of a core that the busy process had meanwhile."""
    with busy_core() as process:
        started = time.monotonic()
        run = run_demo(scenes, folder)
        used = process.cpu_times()
        return run, (used.user + used.system) / (time.monotonic() - started)


def differing(runs: Sequence[DemoRun]) -> list[str]:
    """Names of the results that are not the same in all runs."""
    names = {name for run in runs for name in run.results}
    return sorted(name for name in names if len({run.results.get(name) for run in runs}) > 1)


def figures_of(free: Sequence[DemoRun], busy: Sequence[DemoRun], shares: Sequence[float]) -> dict[str, object]:
    """The JSON object: medians over the rounds, memory of the largest process."""
    totals = {name: statistics.median(run.total for run in runs) for name, runs in (("free", free), ("busy", busy))}
    return {
        "benchmark": "busy_core",
        "ratio": totals["busy"] / totals["free"],
        "ratios": [float(f"{beside.total / alone.total:.4g}") for alone, beside in zip(free, busy, strict=True)],
        "seconds_free": totals["free"],
        "seconds_busy": totals["busy"],
        "busy_share": statistics.median(shares),
        "peak_gib": max(peak for run in (*free, *busy) for peak in run.peak_bytes.values()) / 2**30,
        "results": len(free[0].results),
        "different": differing([*free, *busy]),
        "cores": len(os.sched_getaffinity(0)),
        "rounds": len(free),
    }


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=Path, default=DEMO, metavar="DIR", help="drawn scenes (default: the demo's)")
    parser.add_argument("--rounds", type=int, default=1, help="how often both are run, by turns (default: 1)")
    options = parser.parse_args()
    free: list[DemoRun] = []
    busy: list[DemoRun] = []
    shares: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds):
            free.append(run_demo(options.scenes, Path(folder, f"free_{number}")))
            run, share = run_beside_busy_core(options.scenes, Path(folder, f"busy_{number}"))
            busy.append(run)
            shares.append(share)
            print(f"round {number + 1}: alone {free[-1].total:.1f} s, beside a busy core {run.total:.1f} s", flush=True)
    print_table(
        ["step", "alone, s", "busy core, s", "alone, GiB", "busy core, GiB"],
        [
            [step, *(statistics.median(run.seconds[step] for run in runs) for runs in (free, busy)),
             *(max(run.peak_bytes[step] for run in runs) / 2**30 for runs in (free, busy))]
            for step in free[0].seconds
        ],
    )  # fmt: skip
    figures = figures_of(free, busy, shares)
    print_json(figures)
    return 1 if figures["different"] else 0


if __name__ == "__main__":
    sys.exit(main())
