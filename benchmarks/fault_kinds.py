"""The faults of a campaign: each disturbs a run of a stage, or what lies on disk between two runs."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
from fault_cluster import TwoNodes
from fault_runs import WORKERS, Moment, Place, Running

from pseudo_ris.runtime.failures import FAILURES_FILE, write_failures
from pseudo_ris.runtime.image_loop import Failure
from pseudo_ris.runtime.runs import EXIT_FAILURES

SIGTERM_SECONDS = 10.0
REFUSED, REFUSAL = 2, "another run is at work"
FULL_DISK_BYTES, LARGER_DISK = 4 << 20, "64m"
BALLAST = "ballast"
MOST_LEFT_FREE = 64 << 10
MOST_FILES_CUT = 3


@dataclass
class Strike:
    """What a fault did.

    hit: whether it met a run at work, or a file. said: for a person. broken: promises that the run did not keep.
    sigterm_seconds: from SIGTERM to the end of the driver that got it.
    """

    hit: bool
    said: str
    broken: list[str] = field(default_factory=list)
    sigterm_seconds: float = 0.0


@dataclass(frozen=True)
class Target:
    """The run that a fault disturbs."""

    place: Place
    stage: int
    engine: str
    rng: random.Random
    nodes: TwoNodes | None = None

    def start(self) -> Running:
        return Running(self.place, self.stage, self.engine)

    def moment(self) -> Moment:
        return Moment.draw(self.place, self.stage, self.rng)


@dataclass(frozen=True)
class Kind:
    """strike: disturbs. needs: what must be there, "workers" (an engine with processes), "ray" (a cluster) or "mount" (root).

    between: it disturbs what an undisturbed run has left, so that one is needed before it.
    """

    strike: Callable[[Target], Strike]
    needs: str = ""
    between: bool = False

    @property
    def engines(self) -> tuple[str, ...]:
        """Engines of the stages that it can disturb."""
        return {"workers": ("local", "ray"), "ray": ("ray",)}.get(self.needs, ("none", "local", "ray"))


def kill_driver(target: Target) -> Strike:
    """SIGKILL of the command's own process."""
    run, moment = target.start(), target.moment()
    run.wait_for(moment)
    run.process.kill()
    return Strike(run.end() == -signal.SIGKILL, f"{moment}")


def term_driver(target: Target) -> Strike:
    """SIGTERM of the command's own process; it must end in time."""
    run, moment = target.start(), target.moment()
    hit = run.wait_for(moment)
    told = time.monotonic()
    run.process.terminate()
    code = run.end()
    seconds = time.monotonic() - told if hit else 0.0
    late = [f"{seconds:.1f} s from SIGTERM to the end of stage {target.stage}"] if seconds > SIGTERM_SECONDS else []
    return Strike(hit and code != 0, f"{moment}, ended in {seconds:.2f} s with exit code {code}", late, seconds)


def kill_worker(target: Target) -> Strike:
    """SIGKILL of a worker, up to three times in a run."""
    return _signal_workers(target, signal.SIGKILL, 1, times=target.rng.randint(1, 3))


def kill_workers(target: Target) -> Strike:
    """SIGKILL of all workers at once."""
    return _signal_workers(target, signal.SIGKILL, None)


def term_worker(target: Target) -> Strike:
    """SIGTERM of a worker."""
    return _signal_workers(target, signal.SIGTERM, 1)


def kill_node(target: Target) -> Strike:
    """SIGKILL of one of two nodes of a Ray cluster with all that runs on it; a new one takes its place before the next run."""
    run, moment = target.start(), target.moment()
    hit = run.wait_for(moment)
    target.nodes.kill_second()
    try:
        code = run.end()
    finally:
        target.nodes.replace_second()
    return Strike(hit, f"{moment}, exit code {code}")


def full_disk(target: Target) -> Strike:
    """The disk is filled while the run is at work; it is made larger before the next run."""
    folder, rng = target.place.folder, target.rng
    run, moment = target.start(), target.moment()
    hit = run.wait_for(moment)
    _fill(folder / BALLAST, leave=rng.randrange(MOST_LEFT_FREE))
    code = run.end()
    _mount("-o", f"remount,size={LARGER_DISK}", folder)
    return Strike(hit and code != 0, f"{moment}, exit code {code}: {run.last_words()}" if code else f"{moment}, survived")


def read_only(target: Target) -> Strike:
    """The output cannot be written to, for a moment or until the run has ended."""
    folder = target.place.folder
    run, moment = target.start(), target.moment()
    hit = run.wait_for(moment)
    seconds = target.rng.choice((target.rng.uniform(0.02, 0.5), None))
    with read_only_view(folder):
        code = run.end() if seconds is None else time.sleep(seconds)
    code = run.end()
    lasted = "until the end" if seconds is None else f"for {seconds:.2f} s"
    return Strike(hit and code != 0, f"{moment} {lasted}, exit code {code}")


def cut_files(target: Target) -> Strike:
    """Some files of both outputs are cut short at a random byte, emptied or deleted."""
    said = []
    target.place.is_cut = True
    for path in target.rng.sample(files := _files_of(target.place), min(target.rng.randint(1, MOST_FILES_CUT), len(files))):
        said.append(f"{path.relative_to(target.place.folder)} {_cut(path, target.rng)}")
    return Strike(bool(said), ", ".join(said))


def cut_failures(target: Target) -> Strike:
    """A list of failures as a run leaves it whose worker died of an image, cut short."""
    output = target.place.output(target.stage)
    output.mkdir(exist_ok=True)
    image = target.rng.choice(sorted(target.place.images.iterdir()))
    path = output / FAILURES_FILE
    write_failures(path, [Failure(image.stem, image.name, f"{image.name}: twice its worker ended with SIGKILL", "")])
    for result in output.rglob(f"{image.stem}.json"):
        result.unlink()
    return Strike(True, f"{path.relative_to(target.place.folder)} {_cut(path, target.rng)}")


def two_drivers(target: Target) -> Strike:
    """Two runs on the same output at once: one is refused and the other not disturbed.

    After masks were cut short the other may end as stage 2 does with damaged masks: it names these images.
    """
    delay = target.rng.uniform(0, 1)
    first = target.start()
    time.sleep(delay)
    second = target.start()
    runs = (first, second)
    codes = [run.end() for run in runs]
    refused = [run for run, code in zip(runs, codes, strict=True) if code == REFUSED and REFUSAL in run.said()]
    fine = (0, EXIT_FAILURES) if target.place.is_cut else (0,)
    broken = [
        f"of two runs at once one ended with exit code {code}: {run.last_words()}"
        for run, code in zip(runs, codes, strict=True)
        if code not in fine and run not in refused
    ]
    broken += ["of two runs at once both were refused"] if len(refused) == len(runs) else []
    return Strike(len(refused) == 1, f"{delay:.2f} s apart, exit codes {codes}", broken)


KINDS: dict[str, Kind] = {
    "kill_driver": Kind(kill_driver),
    "term_driver": Kind(term_driver),
    "kill_worker": Kind(kill_worker, "workers"),
    "kill_workers": Kind(kill_workers, "workers"),
    "term_worker": Kind(term_worker, "workers"),
    "kill_node": Kind(kill_node, "ray"),
    "full_disk": Kind(full_disk, "mount"),
    "read_only": Kind(read_only, "mount"),
    "cut_files": Kind(cut_files, between=True),
    "cut_failures": Kind(cut_failures, between=True),
    "two_drivers": Kind(two_drivers),
}


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system in memory of FULL_DISK_BYTES at `folder` while it is entered; root may do this."""
    _mount("-t", "tmpfs", "-o", f"size={FULL_DISK_BYTES}", "tmpfs", folder)
    try:
        yield
    finally:
        _unmount(folder)


@contextmanager
def read_only_view(folder: Path) -> Iterator[None]:
    """Nothing below `folder` can be opened for writing while it is entered, whatever is open already; root may do this.

    A read-only view of it is mounted over it: a file system with an open file cannot be made read-only itself.
    """
    view = Path(tempfile.mkdtemp())
    _mount("--bind", folder, view)
    try:
        _mount("-o", "remount,bind,ro", view)
        _mount("--bind", view, folder)
    finally:
        _unmount(view)
        view.rmdir()
    try:
        yield
    finally:
        _unmount(folder)


def can_mount() -> bool:
    """Whether this process may mount file systems."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with small_disk(Path(folder)):
                return True
        except (OSError, subprocess.CalledProcessError):
            return False


def _signal_workers(target: Target, number: int, count: int | None, times: int = 1) -> Strike:
    """Sends a signal to `count` workers (None: all), `times` times; waits for the end of the run."""
    run = target.start()
    latest = max(0, target.place.count - WORKERS)  # later than that a worker may have no image any more
    drawn = (target.moment() for _ in range(times))
    moments = sorted((replace(each, results=min(each.results, latest)) for each in drawn), key=lambda each: each.results)
    struck = 0
    for moment in moments:
        run.wait_for(moment)
        workers = run.wait_for_workers()
        for worker in workers if count is None else target.rng.sample(workers, min(count, len(workers))):
            with suppress(psutil.NoSuchProcess):
                worker.send_signal(number)
                struck += 1
    code = run.end()
    return Strike(struck > 0, f"{'; '.join(map(str, moments))}: {struck} workers, exit code {code}")


def _files_of(place: Place) -> list[Path]:
    return sorted(path for stage in (1, 2) for path in place.output(stage).rglob("*") if path.is_file())


def _cut(path: Path, rng: random.Random) -> str:
    """Cuts a file short in one of three ways and says which."""
    size = path.stat().st_size
    way = rng.choices(("deleted", "emptied", "cut"), (1, 1, 3))[0]
    if way == "deleted":
        path.unlink()
        return way
    length = rng.randrange(size) if way == "cut" and size else 0
    os.truncate(path, length)
    return f"{way} to {length} of {size} bytes"


def _fill(ballast: Path, leave: int) -> None:
    """Fills the disk with a file but for about `leave` bytes."""
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        file.write(bytes(max(0, shutil.disk_usage(ballast.parent).free - leave)))


def _mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True, capture_output=True)


def _unmount(folder: Path) -> None:
    """Lazily, for a run may just have a file open there."""
    subprocess.run(["umount", "--lazy", str(folder)], check=True, capture_output=True)
