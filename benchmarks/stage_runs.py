"""Runs of both stages' commands on drawn scenes: how long they take, how much memory, and what files they write."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import psutil
from timed_stage import READS, Notes

from pseudo_ris.io.files import file_digest
from pseudo_ris.runtime.engine import worker as worker_module
from pseudo_ris.world.coco_writer import IMAGES, write_coco_scenes
from pseudo_ris.world.scenes import draw_scene

ROOT = Path(__file__).parents[1]
RECIPES = {
    "masks": Path("generate_masks", "cutler_sam_masks.py"),
    "expressions": Path("generate_pseudo_supervision", "distinctive_caption_generation.py"),
}
SAMPLE_SECONDS = 0.5
WORKER = worker_module.__name__


@dataclass(frozen=True)
class StageRun:
    """One run of a stage's command.

    begun, over: on the clock of `notes`. driver_peak, worker_peak: bytes, the latter of the largest worker, 0 without one.
    files: digest by name. written: bytes of these files.
    """

    begun: float
    over: float
    notes: Notes
    driver_peak: int
    worker_peak: int
    files: dict[str, str]
    written: int

    @property
    def images(self) -> int:
        return len(self.notes.ended)

    @property
    def seconds(self) -> float:
        """Of the whole command."""
        return self.over - self.begun

    @property
    def ends(self) -> dict[str, list[float]]:
        """When the images of each worker ended."""
        ends: dict[str, list[float]] = defaultdict(list)
        for worker, ended in zip(self.notes.workers, self.notes.ended, strict=True):
            ends[worker].append(ended)
        return ends

    @property
    def rate(self) -> float:
        """Images a second from the first end to the last, see `first_to_last`."""
        return first_to_last(self.ends.values())

    @property
    def image_seconds(self) -> list[float]:
        """What each image took, without the first of each worker: it loads the models."""
        seconds: dict[str, list[float]] = defaultdict(list)
        for worker, each in zip(self.notes.workers, self.notes.seconds, strict=True):
            seconds[worker].append(each)
        return [each for of_worker in seconds.values() for each in of_worker[1:]]

    @property
    def start_seconds(self) -> float:
        """From the list of images to the first end, without an image's own time: processes start, models are loaded."""
        return self.notes.ended[0] - self.notes.listed - mean(self.image_seconds)

    def operations(self, phase: str, reading: bool) -> float:
        """File operations of an image; a file that is opened is closed, too, which is one more."""
        kinds = self.notes.operations[phase]
        calls = sum(number * (1 + kind.startswith("open")) for kind, number in kinds.items() if (kind in READS) == reading)
        return calls / self.images


def first_to_last(ends: Iterable[list[float]]) -> float:
    """Images a second between the first end and the last, idling at the end included.

    The first image of each worker is not counted: it begins before that.
    """
    ends = list(ends)
    return sum(len(times) - 1 for times in ends) / (max(times[-1] for times in ends) - min(times[0] for times in ends))


def draw_scenes(folder: Path, number: int) -> Path:
    """Draws scenes that no model has seen; returns the folder of their images."""
    write_coco_scenes((draw_scene("evaluation", 0, index) for index in range(number)), folder)
    return folder / IMAGES


def run_stage(stage: str, engine: str, workers: int, images: Path, masks: Path, output: Path) -> StageRun:
    """Runs a stage's command, each process with one thread. output: folder that receives the stage's files, new.

    masks: stage 1's, read by stage 2. Raises SystemExit with what the command said when it fails.
    """
    places = ["--masks", str(output)] if stage == "masks" else ["--masks", str(masks), "--output", str(output)]
    options = ["--images", str(images), *places, "--engine", engine, "--workers", str(workers)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with tempfile.NamedTemporaryFile(suffix=".json") as noted, tempfile.TemporaryFile() as log:
        command = [sys.executable, ROOT / "benchmarks" / "timed_stage.py", noted.name, RECIPES[stage], *options]
        begun = time.monotonic()
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
        driver_peak, worker_peak = watch_memory(process)
        over = time.monotonic()
        if process.returncode:
            log.seek(0)
            raise SystemExit(f"{stage}, --engine {engine}: exit code {process.returncode}\n{log.read().decode()}")
        notes = Notes.read(Path(noted.name))
    files = {path.relative_to(output).as_posix(): path for path in sorted(output.rglob("*")) if path.is_file()}
    digests = {name: file_digest(path) for name, path in files.items()}
    return StageRun(begun, over, notes, driver_peak, worker_peak, digests, sum(path.stat().st_size for path in files.values()))


def watch_memory(process: subprocess.Popen[bytes]) -> tuple[int, int]:
    """Waits until a process ends; returns its own peak and that of the largest of its workers, in bytes."""
    driver = psutil.Process(process.pid)
    driver_peak = worker_peak = 0
    while True:
        driver_peak = max(driver_peak, peak_of(process.pid))
        with suppress(psutil.Error):
            workers = [child.pid for child in driver.children(recursive=True) if WORKER in child.cmdline()]
            worker_peak = max(worker_peak, *map(peak_of, workers), 0)
        with suppress(subprocess.TimeoutExpired):
            process.wait(SAMPLE_SECONDS)
            return driver_peak, worker_peak


def peak_of(pid: int) -> int:
    """The most memory a process has had so far, in bytes; 0 when it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 if "VmHWM:" in status else 0
