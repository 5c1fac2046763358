"""A discrete-event model of a run on many workers: one driver, nodes of workers, one shared file system.

What it takes to be true:
- The driver is one server: an image costs it `driver_seconds` (its outcome taken, the next image handed out), a worker's start
  `launch_seconds`, one after the other. Between driver and worker a message of either way takes no server, together
  `handover_seconds`.
- A worker has up to `held` images at a time and works on one: file operations and bytes that are read, the image's cost, those
  that are written, and `worker_seconds` for the engine. An image costs the same on every worker; nodes have cores enough for
  what the GPUs leave to them.
- The file system answers an operation in `operation_seconds`, `operations_at_once` of them together, after `operation_latency`
  on the way; all bytes go through one pipe. Nothing is cached, except a node's weights: each node reads them once.
- A node dies after an exponentially distributed time, whatever it is doing. Its images are tried again after all others, and it
  is there again after `restart_seconds` and its workers' start. Files are never lost, the driver never dies.
- Images are listed before the workers start, and put together after the last has ended, both by the driver alone.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

COMPUTING = "computing"


@dataclass(frozen=True)
class Cluster:
    """Seconds, bytes and counts of a run, see above; those of an image unless they say otherwise. The default costs nothing.

    listing_seconds, closing_seconds: of the driver, before the workers start and after the last image. reads, writes: file
    operations. start_seconds: from a worker's launch to its first image, models loaded, without the bytes of the weights.
    failures_per_hour: of a node.
    """

    listing_seconds: float = 0.0
    driver_seconds: float = 0.0
    worker_seconds: float = 0.0
    handover_seconds: float = 0.0
    closing_seconds: float = 0.0
    held: int = 1
    reads: float = 0.0
    writes: float = 0.0
    read_bytes: float = 0.0
    written_bytes: float = 0.0
    operation_seconds: float = 0.0
    operation_latency: float = 0.0
    operations_at_once: int = 1
    bytes_per_second: float = float("inf")
    launch_seconds: float = 0.0
    start_seconds: float = 0.0
    weight_bytes: float = 0.0
    workers_per_node: int = 8
    failures_per_hour: float = 0.0
    restart_seconds: float = 0.0


@dataclass(frozen=True)
class Projection:
    """What came of a run.

    seconds: from start to end. ends: when the images of each worker ended. spent: worker seconds by what they went into, in all
    workers x seconds: computing (of images that ended), starting, files, engine (its own time in workers, and waiting for the
    driver), idle (no image left), lost (work of images whose node died), closing. tries: images begun.
    """

    workers: int
    seconds: float
    ends: dict[int, list[float]]
    spent: dict[str, float]
    tries: int

    @property
    def images(self) -> int:
        """That ended, so all."""
        return sum(map(len, self.ends.values()))

    @property
    def images_per_second(self) -> float:
        """Of the whole run."""
        return self.images / self.seconds

    @property
    def steady_rate(self) -> float:
        """Images a second of the middle half of the images, in the order in which they ended."""
        ends = sorted(end for times in self.ends.values() for end in times)
        first, last = len(ends) // 4, len(ends) * 3 // 4
        return (last - first) / (ends[last] - ends[first])

    @property
    def efficiency(self) -> float:
        """Share of the workers' time that went into images."""
        return self.spent[COMPUTING] / (self.workers * self.seconds)

    @property
    def bottleneck(self) -> str:
        """What cost the workers most time beside the images, with its share."""
        worst = max((name for name in self.spent if name != COMPUTING), key=self.spent.__getitem__)
        return f"{worst} {self.spent[worst] / (self.workers * self.seconds):.1%}"


def steady_rate(ends: Mapping[Any, Sequence[float]]) -> float:
    """Images a second of all workers, from each worker's first end to its last, so without start and idling at the end.

    ends: times by worker, in order; many of each. Workers that ended fewer than two images do not count.
    """
    return sum((len(times) - 1) / (times[-1] - times[0]) for times in ends.values() if len(times) > 1)


def draw_costs(
    measured: Sequence[float], mean: float, images: int, seed: int, tail_share: float = 0.0, tail_factor: float = 1.0
) -> list[float]:
    """Costs of `images` images: draws from `measured`, scaled so that its mean is `mean`.

    tail_share: of the images cost `tail_factor` times theirs on top of that.
    """
    rng = random.Random(seed)
    scale = mean * len(measured) / sum(measured)
    drawn = rng.choices(measured, k=images)
    return [cost * scale * (tail_factor if rng.random() < tail_share else 1.0) for cost in drawn]


def simulate(cluster: Cluster, workers: int, costs: Sequence[float], seed: int = 0) -> Projection:
    """A run of `workers` workers on images of these costs (seconds)."""
    return _Simulation(cluster, workers, costs, seed).run()


class _Servers:
    """Servers with one queue: who comes first is served first. Calls come in the order of `now`."""

    def __init__(self, number: int) -> None:
        self._free = [0.0] * number

    def serve(self, now: float, seconds: float) -> float:
        """When `seconds` of service, asked for at `now`, have ended."""
        end = max(now, self._free[0]) + seconds
        heapq.heapreplace(self._free, end)
        return end


@dataclass(eq=False, slots=True)
class _Worker:
    """life: counts its deaths; an event of an earlier life is void. since: when what it does now began.

    held: images it was handed that have not ended, `queue` those that wait on it. current: the one it works on.
    """

    number: int
    life: int = 0
    alive: bool = False
    since: float = 0.0
    in_files: float = 0.0
    current: int | None = None
    queue: deque[int] = field(default_factory=deque)
    held: set[int] = field(default_factory=set)


class _Simulation:
    def __init__(self, cluster: Cluster, workers: int, costs: Sequence[float], seed: int) -> None:
        self.cluster, self.costs = cluster, costs
        self.rng = random.Random(seed)
        self.workers = [_Worker(number) for number in range(workers)]
        size = cluster.workers_per_node
        self.nodes = [self.workers[first : first + size] for first in range(0, workers, size)]
        self.driver, self.pipe = _Servers(1), _Servers(1)
        self.metadata = _Servers(cluster.operations_at_once)
        self.waiting = deque(range(len(costs)))
        self.idle: list[tuple[_Worker, int]] = []
        self.ends: dict[int, list[float]] = {number: [] for number in range(workers)}
        self.spent: Counter[str] = Counter({COMPUTING: 0.0, "closing": 0.0})
        self.now, self.ended, self.tries = 0.0, 0, 0
        self.events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self.order = count()

    def run(self) -> Projection:
        listed = self.cluster.listing_seconds * len(self.costs)
        for node in self.nodes:
            self.at(listed, self.start, node)
        while self.ended < len(self.costs):
            self.now, _, what, about = heapq.heappop(self.events)
            what(*about)
        for worker in self.workers:
            self.spend("idle" if worker.alive else "starting", worker)
        closing = self.cluster.closing_seconds * len(self.costs)
        self.spent["closing"] = closing * len(self.workers)
        return Projection(len(self.workers), self.now + closing, self.ends, dict(self.spent), self.tries)

    def at(self, time: float, what: Callable[..., None], *about: Any) -> None:
        heapq.heappush(self.events, (time, next(self.order), what, about))

    def spend(self, kind: str, worker: _Worker) -> None:
        """Books the worker's time since it began what it did until now."""
        self.spent[kind] += self.now - worker.since
        worker.since = self.now

    def start(self, node: list[_Worker]) -> None:
        """The workers of a node are launched; there is a time after which it will die."""
        read = self.pipe.serve(self.now, self.cluster.weight_bytes / self.cluster.bytes_per_second)
        for worker in node:
            launched = self.driver.serve(self.now, self.cluster.launch_seconds)
            self.at(max(read, launched) + self.cluster.start_seconds, self.ready, worker, worker.life)
        if self.cluster.failures_per_hour:
            self.at(self.now + self.rng.expovariate(self.cluster.failures_per_hour / 3600), self.fail, node)

    def ready(self, worker: _Worker, life: int) -> None:
        if worker.life == life:
            self.spend("starting", worker)
            worker.alive = True
            for _ in range(self.cluster.held):
                self.hand(worker)

    def hand(self, worker: _Worker) -> None:
        """The driver sends the worker an image, or notes that it could have one."""
        if not self.waiting:
            self.idle.append((worker, worker.life))
            return
        image = self.waiting.popleft()
        worker.held.add(image)
        self.at(self.now + self.cluster.handover_seconds, self.arrive, worker, worker.life, image)

    def arrive(self, worker: _Worker, life: int, image: int) -> None:
        if worker.life == life:
            worker.queue.append(image)
            if worker.current is None:
                self.begin(worker)

    def begin(self, worker: _Worker) -> None:
        self.spend("engine", worker)
        self.tries += 1
        worker.current = worker.queue.popleft()
        read = self.files(self.cluster.reads, self.cluster.read_bytes)
        worker.in_files = read - self.now
        self.at(read + self.costs[worker.current], self.computed, worker, worker.life)

    def computed(self, worker: _Worker, life: int) -> None:
        if worker.life == life:
            written = self.files(self.cluster.writes, self.cluster.written_bytes)
            worker.in_files += written - self.now
            self.at(written + self.cluster.worker_seconds, self.written, worker, life)

    def written(self, worker: _Worker, life: int) -> None:
        """The image's result is on disk; whatever happens to the worker now, the image has ended."""
        if worker.life != life or worker.current is None:
            return
        self.spent[COMPUTING] += self.costs[worker.current]
        self.spent["files"] += worker.in_files
        self.spent["engine"] += self.cluster.worker_seconds
        worker.since = self.now
        worker.held.remove(worker.current)
        worker.current = None
        self.at(self.driver.serve(self.now, self.cluster.driver_seconds), self.taken, worker, life)
        if worker.queue:
            self.begin(worker)

    def taken(self, worker: _Worker, life: int) -> None:
        """The driver has taken an outcome, and has the next image for its worker."""
        self.ended += 1
        self.ends[worker.number].append(self.now)
        if worker.life == life:
            self.hand(worker)

    def fail(self, node: list[_Worker]) -> None:
        """A node dies; who had found no image may have those it held."""
        for worker in node:
            doing = "starting" if not worker.alive else "engine" if worker.current is None else "lost"
            self.spend(doing, worker)
            self.waiting.extend(sorted(worker.held))
            worker.life += 1
            worker.alive, worker.current = False, None
            worker.queue.clear()
            worker.held.clear()
        self.at(self.now + self.cluster.restart_seconds, self.start, node)
        while self.idle and self.waiting:
            worker, life = self.idle.pop()
            if worker.life == life:
                self.hand(worker)

    def files(self, operations: float, size: float) -> float:
        """When so many operations, one after the other, and bytes are done that are asked for now."""
        answered = self.metadata.serve(self.now, operations * self.cluster.operation_seconds)
        moved = self.pipe.serve(answered, size / self.cluster.bytes_per_second)
        return moved + operations * self.cluster.operation_latency
