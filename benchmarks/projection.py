"""From what was measured on one machine to clusters: the parameters of `cluster_model`, where each comes from, and its runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import mean

from cluster_model import Cluster, Projection, draw_costs, simulate, steady_rate
from stage_runs import StageRun, first_to_last
from waiting_runs import WaitingRun, held_by

SIZES = (1, 8, 64, 256, 1024)
SHOWN_SIZES = (8, 64, 1024)
COSTS = (0.1, 1.0, 10.0)
TAIL_SHARE, TAIL_FACTOR = 0.01, 10.0
# Assumed: an old server of files, far from the best.
OPERATION_SECONDS, OPERATIONS_AT_ONCE, OPERATION_LATENCY = 0.2e-3, 4, 0.5e-3
BYTES_PER_SECOND = 2e9
# Assumed: an image of COCO, the weights of the full-size models of a stage, and how long a node takes to load them.
PHOTOGRAPH_BYTES = 160e3
WEIGHT_BYTES, LOAD_SECONDS = 3e9, 30.0
# Assumed: actors are created one after the other, a message crosses a network; pre-emptible nodes live for 20 hours and are
# replaced in 5 minutes.
LAUNCH_SECONDS = 0.02
HANDOVER_SECONDS = 1e-3
FAILURES_PER_HOUR, RESTART_SECONDS = 0.05, 300.0


@dataclass(frozen=True)
class Check:
    """A measured figure beside what the model says."""

    what: str
    measured: float
    projected: float

    @property
    def error(self) -> float:
        """Relative to what was measured."""
        return self.projected / self.measured - 1


@dataclass(frozen=True)
class Point:
    """A projected run of a stage whose images cost `cost` seconds on average."""

    stage: str
    cost: float
    run: Projection


def engine_parameters(runs: Sequence[WaitingRun]) -> Cluster:
    """What an engine costs an image, from its runs of least and of most workers.

    Of the driver it is the CPU time that more images a second take, without what passes with the time. Of a worker it is what
    one loses, less the driver's time where it holds one image and so waits for the driver.
    """
    alone, largest = min(runs, key=lambda run: run.workers), max(runs, key=lambda run: run.workers)
    driver = largest.driver_cpu
    if largest.rate > alone.rate:
        more_cpu = largest.driver_cpu * largest.rate - alone.driver_cpu * alone.rate
        driver = max(0.0, more_cpu / (largest.rate - alone.rate))
    return Cluster(driver_seconds=driver, worker_seconds=max(0.0, alone.overhead - driver * (alone.held == 1)))


def check_engine(runs: Sequence[WaitingRun]) -> Iterator[Check]:
    """The steady rates of an engine's runs; the one of one worker is what the model was fitted to."""
    cluster = engine_parameters(runs)
    for run in runs:
        projected = simulate(replace(cluster, held=run.held), run.workers, [run.wait] * run.images)
        yield Check(f"waiting, {run.engine}, {run.workers} workers, images/s", run.rate, steady_rate(projected.ends))


def check_stage(stage: str, one: StageRun, two: StageRun, engine: Cluster) -> Iterator[Check]:
    """The run of two workers from that of one: its images' costs, its start, its end."""
    costs = [mean(one.image_seconds), *one.image_seconds]
    cluster = replace(engine, start_seconds=max(0.0, one.start_seconds))
    projected = simulate(cluster, 2, costs)
    before, after = one.notes.listed - one.begun, one.over - one.notes.ended[-1]
    yield Check(f"{stage}, 2 workers, images/s", two.rate, first_to_last(projected.ends.values()))
    yield Check(f"{stage}, 2 workers, s of the command", two.seconds, before + projected.seconds + after)


def cluster_of(none: StageRun, one: StageRun, image_bytes: float, engine: Cluster) -> Cluster:
    """A cluster for a stage.

    none: the stage in one process, where all its file operations are. one: by one worker. image_bytes: of a scene.
    """
    notes = none.notes
    an_operation = OPERATION_SECONDS + OPERATION_LATENCY
    listing = none.operations("listing", reading=True)
    closing = none.operations("closing", reading=True) + none.operations("closing", reading=False)
    return replace(
        engine,
        handover_seconds=HANDOVER_SECONDS,
        listing_seconds=listing * an_operation,
        closing_seconds=(notes.closed - notes.ended[-1]) / none.images + closing * an_operation,
        reads=none.operations("images", reading=True),
        writes=none.operations("images", reading=False),
        read_bytes=max(image_bytes, PHOTOGRAPH_BYTES),
        written_bytes=none.written / none.images,
        operation_seconds=OPERATION_SECONDS,
        operation_latency=OPERATION_LATENCY,
        operations_at_once=OPERATIONS_AT_ONCE,
        bytes_per_second=BYTES_PER_SECOND,
        launch_seconds=LAUNCH_SECONDS,
        start_seconds=max(0.0, one.start_seconds) + LOAD_SECONDS,
        weight_bytes=WEIGHT_BYTES,
        failures_per_hour=FAILURES_PER_HOUR,
        restart_seconds=RESTART_SECONDS,
    )


def sources(cluster: Cluster) -> list[tuple[str, str, str]]:
    """Parameter, value, and where it comes from."""
    return [
        ("driver, ms an image, one after the other", f"{cluster.driver_seconds * 1e3:.2f}", "measured"),
        ("engine in the worker, ms an image", f"{cluster.worker_seconds * 1e3:.2f}", "measured"),
        ("way between driver and worker, ms an image", f"{HANDOVER_SECONDS * 1e3:g}", "assumed"),
        ("images a worker holds", "as the engine has it", "engine/on_ray.py"),
        ("listing, ms an image", f"{cluster.listing_seconds * 1e3:.2f}", "operations counted, their time assumed"),
        ("putting together, ms an image", f"{cluster.closing_seconds * 1e3:.2f}", "measured, and operations as above"),
        ("file operations an image, before and after", f"{cluster.reads:.1f}, {cluster.writes:.1f}", "counted"),
        ("a file operation, ms", f"{OPERATION_SECONDS * 1e3:g} + {OPERATION_LATENCY * 1e3:g} on the way", "assumed"),
        ("file operations at once", f"{OPERATIONS_AT_ONCE}", "assumed"),
        ("read, kB an image", f"{cluster.read_bytes / 1e3:.0f}", "assumed: a photograph"),
        ("written, kB an image", f"{cluster.written_bytes / 1e3:.0f}", "measured, of scenes"),
        ("bandwidth, GB/s", f"{BYTES_PER_SECOND / 1e9:g}", "assumed"),
        ("start of a worker, s", f"{cluster.start_seconds:.1f}", f"measured, and {LOAD_SECONDS:g} s for large models assumed"),
        ("weights, GB a node", f"{WEIGHT_BYTES / 1e9:g}", "assumed"),
        ("launch of a worker, ms, one after the other", f"{LAUNCH_SECONDS * 1e3:g}", "assumed"),
        ("workers a node", f"{cluster.workers_per_node}", "assumed"),
        ("a node dies, times an hour", f"{FAILURES_PER_HOUR:g}, back after {RESTART_SECONDS:g} s", "assumed"),
        ("an image on its GPU, s", ", ".join(f"{cost:g}" for cost in COSTS), "assumed; spread measured, of scenes on a core"),
        (f"images that cost {TAIL_FACTOR:g} times as much", f"{TAIL_SHARE:g}", "assumed"),
    ]


def project(stage: str, cluster: Cluster, measured: Sequence[float], images: int, engine: str, seed: int) -> Iterator[Point]:
    """Runs of all sizes and costs. measured: seconds of images, whose spread is taken."""
    tail = 1 + TAIL_SHARE * (TAIL_FACTOR - 1)
    for cost in COSTS:
        costs = draw_costs(measured, cost / tail, images, seed, TAIL_SHARE, TAIL_FACTOR)
        for workers in SIZES:
            held = held_by(engine, images, workers)
            yield Point(stage, cost, simulate(replace(cluster, held=held), workers, costs, seed))
