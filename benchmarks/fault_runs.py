"""Runs of the two stages that a fault campaign disturbs: where they write, how they are started, and moments to strike at."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from pseudo_ris.io.files import TEMPORARY_SUFFIX

ROOT = Path(__file__).parents[1]
SCRIPTS = {
    1: ROOT / "generate_masks" / "cutler_sam_masks.py",
    2: ROOT / "generate_pseudo_supervision" / "distinctive_caption_generation.py",
}
NAME = "pairs"
CHEAP = {
    1: ["--sam.points_per_side", "4"],
    2: [
        *("--name", NAME, "--decoding.top_k", "[5]", "--decoding.top_p", "[0.8]"),
        *("--decoding.beams", "2", "--decoding.beam_groups", "1", "--decoding.max_length", "12"),
    ],
}
WORKER = "pseudo_ris.runtime.engine.worker"
WORKERS = 2
LONGEST_RUN = 600.0
POLL = 0.001


@dataclass(frozen=True)
class Pace:
    """Of an undisturbed run of a stage: seconds until its first result is there, and from one to the next."""

    start: float
    image: float


@dataclass
class Place:
    """What one round works on.

    folder: receives masks/ and pairs/. images: the scenes. paces: of the stages here. options: further ones of both stages.
    address: of the Ray cluster for `--engine ray`. sessions: of the runs that were started, each has one of its own.
    made: names of the results that are there, by stage. is_cut: files of the output were; stage 2 may find damaged masks.
    """

    folder: Path
    images: Path
    paces: dict[int, Pace]
    options: tuple[str, ...] = ()
    address: str = ""
    sessions: list[int] = field(default_factory=list)
    made: dict[int, set[str]] = field(default_factory=lambda: {1: set(), 2: set()})
    is_cut: bool = False

    def output(self, stage: int) -> Path:
        """The folder that a stage writes to."""
        return self.folder / ("masks" if stage == 1 else "pairs")

    @property
    def count(self) -> int:
        """Number of images."""
        return len(list(self.images.iterdir()))

    @property
    def table(self) -> Path:
        """The pairs CSV."""
        return self.output(2) / f"{NAME}.csv"

    def command(self, stage: int, engine: str) -> list[str]:
        """The normal command of a stage. engine: "none", "local" or "ray"."""
        where = ["--images", str(self.images), "--masks", str(self.output(1))]
        where += ["--output", str(self.output(2))] if stage == 2 else []
        workers = ["--engine", engine, "--workers", str(WORKERS)] if engine != "none" else []
        cluster = ["--address", self.address] if engine == "ray" else []
        return [sys.executable, str(SCRIPTS[stage]), *where, *CHEAP[stage], *self.options, *workers, *cluster]

    def finished(self, stage: int) -> set[tuple[str, int]]:
        """Name and time of the files of one image each that a stage has finished and not put together yet."""
        folder = self.output(1) / "_meta" if stage == 1 else self.output(2) / f"{NAME}.parts"
        found = set()
        with suppress(OSError):
            for entry in os.scandir(folder):
                if entry.name.endswith(".json") and not entry.name.startswith("."):
                    with suppress(OSError):  # it was removed just now
                        found.add((entry.name, entry.stat().st_mtime_ns))
        return found

    def is_writing(self, stage: int) -> bool:
        """Whether a file or folder is just being written under its temporary name."""
        return any(
            name.endswith(TEMPORARY_SUFFIX) for _, *names in os.walk(self.output(stage)) for some in names for name in some
        )


@dataclass(frozen=True)
class Moment:
    """When to strike: `delay` seconds after `results` images were finished, or as soon as something is written after that."""

    results: int
    delay: float
    in_write: bool = False

    @classmethod
    def draw(cls, place: Place, stage: int, rng: random.Random) -> Moment:
        """While a run starts, works on an image, writes, or ends; it mostly works or writes."""
        pace, images = place.paces[stage], max(1, place.count - len(place.made[stage]))
        match rng.choices(("start", "image", "write", "end"), (1, 4, 4, 1))[0]:
            case "start":
                return cls(0, rng.uniform(0, pace.start))
            case "image":
                results = rng.randrange(images)
                return cls(results, rng.uniform(0, pace.image) + (0 if results else pace.start))
            case "write":
                return cls(rng.randrange(images + (stage == 2)), 0.0, in_write=True)
        return cls(images, rng.uniform(0, pace.image))

    def __str__(self) -> str:
        return f"{'in a write ' if self.in_write else ''}after {self.results} images + {self.delay:.2f} s"


class Running:
    """A run of a stage in a process of its own."""

    def __init__(self, place: Place, stage: int, engine: str) -> None:
        self.place, self.stage, self.engine = place, stage, engine
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the process)
        self._before = place.finished(stage)
        self._finished: set[tuple[str, int]] = set()
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            place.command(stage, engine),
            cwd=ROOT,
            env=environment,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        place.sessions.append(self.process.pid)

    @property
    def is_at_work(self) -> bool:
        """Whether it has not ended yet."""
        return self.process.poll() is None

    def wait_for(self, moment: Moment) -> bool:
        """Waits for a moment of the run; False when the run has ended before."""
        while self.is_at_work:
            if (ahead := self._results() - moment.results) < 0:
                time.sleep(POLL)
            elif ahead > 1 or not moment.in_write or self.place.is_writing(self.stage):
                break
        time.sleep(moment.delay)
        return self.is_at_work

    def wait_for_workers(self) -> list[psutil.Process]:
        """The processes of its workers, as soon as there are any; none when the run ends before."""
        while self.is_at_work:
            if workers := processes_of_workers():
                return workers
            time.sleep(POLL)
        return []

    def end(self) -> int:
        """Waits for the run's end and returns its exit code. Raises TimeoutError, after killing it, when it does not come."""
        try:
            return self.process.wait(LONGEST_RUN)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise TimeoutError(f"stage {self.stage} did not end in {LONGEST_RUN:.0f} s: {self.last_words()}") from None

    def _results(self) -> int:
        """How many images it has finished."""
        self._finished |= self.place.finished(self.stage) - self._before
        self.place.made[self.stage].update(name for name, _ in self._finished)
        return len(self._finished)

    def said(self) -> str:
        """All that it has written to the terminal."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def last_words(self) -> str:
        """The last line it has written."""
        return (self.said().strip().splitlines() or ["it said nothing"])[-1]


def run_normally(place: Place, engine: str, stages: tuple[int, ...] = (1, 2)) -> list[str]:
    """Runs the stages one after the other to their ends; returns what was not as it must be, [] when all was."""
    for stage in stages:
        run = Running(place, stage, engine)
        try:
            code = run.end()
        except TimeoutError as error:
            return [str(error)]
        if code != 0:
            return [f"the normal run of stage {stage} ended with exit code {code}: {run.last_words()}"]
    return []


def processes_of_workers() -> list[psutil.Process]:
    """The processes of workers below this one, whether a run has started them or the nodes of a Ray cluster."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if WORKER in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def end_leftovers(place: Place) -> list[str]:
    """Kills what is left of the runs that were started here, and says what it was; [] when all have ended."""
    left = {process for process in psutil.process_iter() if _session(process) in place.sessions}
    said = []
    for process in left.union(processes_of_workers()):
        with suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                said.append(f"a process was left running: {' '.join(process.cmdline())}")
                process.kill()
    return said


def _session(process: psutil.Process) -> int:
    try:
        return os.getsid(process.pid)
    except OSError:
        return 0
