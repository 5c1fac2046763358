"""Both stages under faults, again and again: what is lost, doubled or different after a normal run to the end.

    python benchmarks/faults.py --rounds 100                                   all kinds of faults
    python benchmarks/faults.py --rounds 10 --kinds kill_driver cut_files      some
    python benchmarks/faults.py --first 17 --rounds 1 --work /tmp/faults       round 17 again, to look at (same seed and kinds)

A round starts from nothing, or from results made with other settings, and draws a stage, one or two kinds of faults and random
moments; then both stages are run normally to their ends and everything below masks/ and pairs/ is compared, byte by byte, with
what an undisturbed process made. The stage that is disturbed runs in the command's own process or in two workers; with
--engine ray these are on a cluster of two nodes, and kill_node is drawn, too. Without root the kinds that need a mount are
skipped.

The last line is one JSON object. rows_lost and rows_doubled count (image, seg_id) rows of the pairs CSV; files_different counts
files and folders; promises_broken counts a normal run that fails, an end more than 10 s after SIGTERM, a process left running
and two runs on one output that are not told apart. hits counts the faults that met a run at work. The exit code is 1 when any
of the four is not 0.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from common import print_json
from fault_check import Difference, Output, compare, read_output
from fault_cluster import TwoNodes
from fault_kinds import KINDS, Strike, Target, can_mount, small_disk
from fault_runs import ROOT, Moment, Pace, Place, Running, end_leftovers, run_normally

SCENES = ROOT / "datasets" / "demo" / "images"
OTHER_SETTINGS = ("--matching.min_iou", "0.9"), ("--decoding.seed", "1")
OPTION_SETS: tuple[tuple[str, ...], ...] = (), ("--shard-size", "2")
SECOND_FAULT, OLDER_RESULTS, DISTURBED_WITH_WORKERS, CLOSING_WITH_WORKERS = 0.3, 0.3, 0.5, 0.2
STAGES = (1, 2)
ENGINES = ("none", "local", "ray")


@dataclass(frozen=True)
class Plan:
    """What a round does, all of it drawn.

    options: of both stages. older: results of other settings are there already. engine: of the disturbed stage.
    closing_engine: of the normal run.
    """

    rng: random.Random
    kinds: list[str]
    options: tuple[str, ...]
    stage: int
    engine: str
    older: bool
    closing_engine: str

    @property
    def needs_disk(self) -> bool:
        """Whether a fault needs a file system of its own."""
        return any(KINDS[name].needs == "mount" for name in self.kinds)

    def __str__(self) -> str:
        where = [f"stage {self.stage}", self.engine, " ".join(self.options), "older results" if self.older else ""]
        return ", ".join(filter(None, where))


@dataclass
class Totals:
    """Of all rounds."""

    rounds: int = 0
    rows_lost: int = 0
    rows_doubled: int = 0
    files_different: int = 0
    promises_broken: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    hits: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    slowest_sigterm_s: float = 0.0

    def add(self, strikes: Sequence[tuple[str, Strike]], difference: Difference, broken: Sequence[str]) -> None:
        """Counts one round."""
        self.rounds += 1
        self.rows_lost += difference.rows_lost
        self.rows_doubled += difference.rows_doubled
        self.files_different += len(difference.files)
        self.promises_broken += len(broken)
        for name, strike in strikes:
            self.faults[name] += 1
            self.hits[name] += strike.hit
            self.slowest_sigterm_s = max(self.slowest_sigterm_s, strike.sigterm_seconds)

    @property
    def is_clean(self) -> bool:
        """Whether nothing was lost, doubled, different or broken."""
        return not (self.rows_lost or self.rows_doubled or self.files_different or self.promises_broken)


class Campaign:
    """Rounds on a few drawn scenes in a working folder."""

    def __init__(self, work: Path, scenes: int, seed: int, kinds: Sequence[str], engine: str, nodes: TwoNodes | None) -> None:
        self.work, self.seed, self.kinds, self.engine, self.nodes = work, seed, kinds, engine, nodes
        self.totals = Totals()
        self._can_mount = can_mount()
        self._images = work / "images"
        self._images.mkdir(parents=True)
        for path in sorted(SCENES.iterdir())[:scenes]:
            shutil.copy(path, self._images)
        self._paces = {stage: self._measure_pace(stage) for stage in STAGES}
        if not output_of(self._undisturbed(())).rows:
            raise SystemExit("these scenes have no rows that could be lost; give more --scenes")

    def play(self, number: int) -> None:
        """One round: faults, a normal run to the end, the comparison; says what was done in one line."""
        started = time.monotonic()
        plan = self._draw(random.Random(f"{self.seed} {number}"))
        address = self.nodes.address if self.nodes else ""
        wanted = output_of(self._undisturbed(plan.options))
        place = Place(self.work / f"round_{number}", self._images, self._paces, plan.options, address)
        place.folder.mkdir()
        with small_disk(place.folder) if plan.needs_disk else nullcontext():
            try:
                strikes, broken = self._disturb_and_mend(place, plan)
            finally:
                left = end_leftovers(place)
            broken += left
            difference = compare(output_of(place.folder), wanted)
            if broken or not difference.is_none:
                shutil.copytree(place.folder, self.work / f"failed_{number}")
        shutil.rmtree(place.folder)
        self.totals.add(strikes, difference, broken)
        did = "; ".join(f"{name} ({'hit' if each.hit else 'missed'}: {each.said})" for name, each in strikes)
        print(f"round {number}, {plan}: {did}; {time.monotonic() - started:.0f} s")
        if not difference.is_none:
            print(f"  FAILED: {difference.rows_lost} rows lost, {difference.rows_doubled} doubled, files {difference.files}")
        for line in broken:
            print(f"  FAILED: {line}")
        sys.stdout.flush()

    def _disturb_and_mend(self, place: Place, plan: Plan) -> tuple[list[tuple[str, Strike]], list[str]]:
        """The faults and what they did, and the promises that were not kept, also by the normal run after them."""
        self._fill(place, plan)
        target = Target(place, plan.stage, plan.engine, plan.rng, self.nodes)
        strikes = [(name, strike(name, target)) for name in plan.kinds]
        return strikes, [line for _, each in strikes for line in each.broken] + run_normally(place, plan.closing_engine)

    def _fill(self, place: Place, plan: Plan) -> None:
        """Gives a round's folder what its stage needs, and what lies there already when the first fault comes."""
        undisturbed = self._undisturbed(plan.options)
        if plan.older:
            shutil.copytree(self._undisturbed(plan.options, older=True), place.folder, dirs_exist_ok=True)
        elif KINDS[plan.kinds[0]].between:
            shutil.copytree(undisturbed, place.folder, dirs_exist_ok=True)
            place.made = {each: {name for name, _ in place.finished(each)} for each in STAGES}
        if plan.stage == 2:
            shutil.rmtree(place.output(1), ignore_errors=True)
            shutil.copytree(undisturbed / place.output(1).name, place.output(1))

    def _draw(self, rng: random.Random) -> Plan:
        kinds = self._draw_kinds(rng)
        needs_workers = any("none" not in KINDS[name].engines for name in kinds)
        return Plan(
            rng=rng,
            kinds=kinds,
            options=rng.choice(OPTION_SETS),
            stage=rng.choice(STAGES),
            engine=self.engine if needs_workers or rng.random() < DISTURBED_WITH_WORKERS else "none",
            older=rng.random() < OLDER_RESULTS,
            closing_engine=self.engine if rng.random() < CLOSING_WITH_WORKERS else "none",
        )

    def _draw_kinds(self, rng: random.Random) -> list[str]:
        """One or two kinds; those that cannot be had here are counted as skipped."""
        usable: list[str] = []
        for name in rng.sample(self.kinds, len(self.kinds)):
            if KINDS[name].needs == "mount" and not self._can_mount:
                self.totals.skipped[name] += 1
                print(f"skipped: {name}, this process may not mount file systems")
                continue
            usable.append(name)
            if len(usable) == 2 or rng.random() >= SECOND_FAULT:
                return usable
        if not usable:
            raise SystemExit("none of these kinds can be had here; choose others by --kinds, or run this as root")
        return usable

    def _measure_pace(self, stage: int) -> Pace:
        """Of a stage's run, which makes its part of the undisturbed results without further options."""
        place = Place(self.work / "undisturbed", self._images, {})
        place.folder.mkdir(exist_ok=True)
        run, started = Running(place, stage, "none"), time.monotonic()
        run.wait_for(Moment(1, 0.0))
        first = time.monotonic()
        run.wait_for(Moment(place.count, 0.0))
        last = time.monotonic()
        if run.end() != 0:
            raise SystemExit(f"the undisturbed run of stage {stage} failed: {run.last_words()}")
        return Pace(first - started, (last - first) / max(1, place.count - 1))

    def _undisturbed(self, options: tuple[str, ...], older: bool = False) -> Path:
        """What undisturbed runs make with these options, or with other settings; made when it is asked for first."""
        folder = self.work / "_".join(("undisturbed", *options, *["older"] * older))
        if not folder.exists():
            folder.mkdir()
            for stage, other in zip(STAGES, OTHER_SETTINGS, strict=True):
                place = Place(folder, self._images, {}, (*options, *(other if older else ())))
                if broken := run_normally(place, "none", (stage,)):
                    raise SystemExit(f"undisturbed: {broken[0]}")
        return folder


def strike(name: str, target: Target) -> Strike:
    """Has a fault of a kind happen; a run that does not end by itself is a broken promise."""
    try:
        return KINDS[name].strike(target)
    except TimeoutError as error:
        return Strike(True, "no end", [str(error)])


def output_of(folder: Path) -> Output:
    """What both stages have in `folder`."""
    place = Place(folder, folder, {})
    return read_output(place.table, *(place.output(stage) for stage in STAGES))


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, metavar="N", help="number of the first round (default: 0)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND", help=", ".join(KINDS))
    parser.add_argument(
        "--engine", choices=ENGINES, default="local", help="of the disturbed runs with workers (default: local)"
    )
    parser.add_argument("--scenes", type=int, default=6, help="drawn scenes (default: 6)")
    parser.add_argument("--work", type=Path, help="new folder to work in; the output of a round that failed stays there")
    options = parser.parse_args()
    kinds = [name for name in options.kinds if options.engine in KINDS[name].engines]
    if not kinds:
        parser.error(f"--kinds {' '.join(options.kinds)}: of no use with --engine {options.engine}")
    if options.work is not None and options.work.exists():
        parser.error(f"--work {options.work}: exists already; give a new folder")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    started = time.monotonic()
    workplace = tempfile.TemporaryDirectory() if options.work is None else nullcontext(options.work)
    cluster = TwoNodes() if options.engine == "ray" else nullcontext()
    with workplace as work, cluster as nodes:
        campaign = Campaign(Path(work).resolve(), options.scenes, options.seed, kinds, options.engine, nodes)
        for number in range(options.first, options.first + options.rounds):
            campaign.play(number)
    totals = campaign.totals
    figures = {"benchmark": "faults", **vars(totals), "seconds": time.monotonic() - started}
    print_json(figures | {"seed": options.seed, "engine": options.engine, "scenes": options.scenes})
    return 0 if totals.is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
