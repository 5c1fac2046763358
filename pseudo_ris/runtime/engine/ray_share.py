"""Cores, GPUs and memory of each worker on a Ray cluster."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pseudo_ris.config import EngineConfig
from pseudo_ris.errors import UserError


@dataclass(frozen=True)
class Share:
    """What each worker gets.

    cpus, gpus: as Ray counts them; threads: OMP_NUM_THREADS; memory_share: as ImageLoop's.
    """

    count: int
    cpus: float
    gpus: float
    threads: int
    memory_share: float = 1.0

    def __str__(self) -> str:
        return f"{self.gpus:g} GPUs" if self.gpus else f"{self.cpus:g} CPUs"


def share_of(nodes: Sequence[Mapping[str, float]], config: EngineConfig, needed_on_cpu: Callable[[], int]) -> Share:
    """What each worker gets of machines with these "CPU", "GPU" and "memory" (bytes). Raises UserError."""
    with_gpus = [node for node in nodes if node.get("GPU")]
    if config.device in ("auto", "cuda") and with_gpus:
        return _gpu_share(with_gpus, config)
    if config.device == "cuda":
        raise UserError("--device cuda: no machine of the Ray cluster has a GPU; give auto or cpu")
    return _cpu_share(nodes, config.workers, needed_on_cpu)


def _gpu_share(nodes: Sequence[Mapping[str, float]], config: EngineConfig) -> Share:
    wanted = config.gpus_per_worker
    of_a_gpu = int(1 / wanted + 1e-9)  # a share of a GPU is a share of one GPU
    fits = sum(int(node["GPU"]) for node in nodes) * of_a_gpu
    if not fits:
        raise UserError("no machine of the Ray cluster has a whole GPU; start its nodes with --num-gpus")
    threads = int(sum(node.get("CPU", 0.0) for node in nodes) / fits)
    return Share(config.workers or fits, 0.0, wanted, max(1, threads), 1 / of_a_gpu)


def _cpu_share(nodes: Sequence[Mapping[str, float]], workers: int, needed: Callable[[], int]) -> Share:
    """The largest share of the cores with which so many workers fit; 0 workers: one a core, as far as memory suffices."""
    cores = [node.get("CPU", 0.0) for node in nodes]
    if not sum(int(count) for count in cores):
        raise UserError("the Ray cluster has no CPUs to work with; start its nodes with --num-cpus")
    workers = workers or max(1, sum(_workers_of(node, needed()) for node in nodes))
    shares = sorted({count / parts for count in cores for parts in range(1, workers + 1) if count}, reverse=True)
    largest = next(share for share in shares if sum(int(count / share + 1e-9) for count in cores) >= workers)
    on_a_node = min(workers, max(int(count / largest + 1e-9) for count in cores))
    # Ray counts in ten-thousandths.
    cpus = math.floor(largest) if largest >= 1 else math.floor(largest * 1e4) / 1e4
    return Share(workers, cpus, 0.0, max(1, int(largest)), 1 / on_a_node)


def _workers_of(node: Mapping[str, float], needed: int) -> int:
    """How many workers a machine has cores and memory for; Ray tells the memory that was free when it was started."""
    return int(min(node.get("CPU", 0.0), node.get("memory", math.inf) // needed))
