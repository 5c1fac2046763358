"""How both stages scale: measured with 1 and 2 workers here, the engines' own cost with up to 64, projected to 1,024 GPUs.

    python benchmarks/scaling.py --plot docs/figures/scaling.png

1. Drawn scenes through both stages with --engine none and with 1 and 2 local workers, each process with one thread, whole
   commands; the files must be the same, byte by byte. `speedup`, the figure that is claimed, is 2 workers' images/s against 1
   worker's, from the first image's end to the last; `command_speedup` that of the whole commands, less by what starting takes.
2. The models replaced by a wait: what the engines add to it, for as long as all workers are at work.
3. A model of clusters (cluster_model.py) with these figures, file operations counted in 1 and assumptions that are printed,
   compared with what was measured and then asked for clusters.

Wants two free cores. The last line is one JSON object; the exit code is 1 when files differ.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from cluster_model import Cluster
from common import in_fresh_process, print_json, print_table
from projection import SHOWN_SIZES, Check, Point, check_engine, check_stage, cluster_of, engine_parameters, project, sources
from stage_runs import RECIPES, StageRun, draw_scenes, run_stage
from waiting_runs import WaitingRun, measure_waiting

MIB = 2**20
RUNS = {"none": ("none", 0), "1 worker": ("local", 1), "2 workers": ("local", 2)}
LOCAL_WORKERS = (1, 4, 16, 64)
RAY_WORKERS = (1, 4, 16)
"""Actors of Ray are too large for 64 of them on a small machine."""
START_SECONDS = {"local": 0.1, "ray": 2.5}
"""A worker's start makes the run so much longer, for others are at work meanwhile."""
LEAST_IMAGES = {"local": 1, "ray": 256}
"""Of a worker, so that Ray's are given several at once, as in a long run."""


def measure_stages(folder: Path, images: Path) -> dict[str, dict[str, StageRun]]:
    """Runs by stage and kind."""
    return {
        stage: {
            kind: run_stage(stage, engine, workers, images, folder / "none" / "masks", folder / kind.split()[0] / stage)
            for kind, (engine, workers) in RUNS.items()
        }
        for stage in RECIPES
    }


def show_stages(stages: dict[str, dict[str, StageRun]]) -> None:
    head = ["stage", "", "images/s", "ratio", "command, s", "ratio", "s an image", "driver, MiB", "worker, MiB", "files differ"]
    rows = []
    for stage, runs in stages.items():
        one = runs["1 worker"]
        for kind, run in runs.items():
            peaks = [round(run.driver_peak / MIB), round(run.worker_peak / MIB)]
            speed = [run.rate, run.rate / one.rate, run.seconds, one.seconds / run.seconds, mean(run.image_seconds)]
            rows.append([stage, kind, *speed, *peaks, len(differing(runs["none"], run))])
    print_table(head, rows)


def differing(run: StageRun, other: StageRun) -> set[str]:
    """Files that are not the same, or that only one has."""
    return {name for name, _ in run.files.items() ^ other.files.items()}


def measure_engines(wait: float, seconds: float, ray_workers: Sequence[int]) -> list[WaitingRun]:
    """Runs of both engines, with images for `seconds` beside the start."""
    wanted = [("local", workers) for workers in LOCAL_WORKERS] + [("ray", workers) for workers in ray_workers]
    runs = []
    for engine, workers in wanted:
        of_worker = (seconds + START_SECONDS[engine] * workers) / wait
        runs.append(measure_waiting(engine, workers, wait, workers * max(int(of_worker), LEAST_IMAGES[engine])))
    return runs


def show_engines(runs: Sequence[WaitingRun]) -> None:
    head = ["engine", "workers", "images", "images/s", "overhead, ms", "of the wait", "driver CPU, ms", "worker CPU, ms"]
    print_table(
        head,
        [
            [
                *(run.engine, run.workers, run.images, run.rate, run.overhead * 1e3, f"{run.share:.2%}"),
                *(run.driver_cpu * 1e3, run.worker_cpu * 1e3),
            ]
            for run in runs
        ],
    )


def show_checks(checks: Sequence[Check]) -> None:
    print_table(
        ["", "measured", "projected", "error"],
        [[check.what, check.measured, check.projected, f"{check.error:+.1%}"] for check in checks],
    )


def show_projection(points: Sequence[Point], images: int) -> None:
    print(f"{images:,} images")
    head = ["stage", "s an image", "GPUs", "images/s", "steady", "efficiency", "of the rest most is", "images tried again"]
    print_table(
        head,
        [
            [
                *(point.stage, point.cost, run.workers, run.images_per_second, run.steady_rate),
                *(f"{run.efficiency:.1%}", run.bottleneck, run.tries - images),
            ]
            for point in points
            if (run := point.run).workers in SHOWN_SIZES
        ],
    )


def main() -> int:
    """The command line above; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=60)
    parser.add_argument("--wait", type=float, default=0.1, help="seconds that stand for the models")
    parser.add_argument("--seconds", type=float, default=8.0, help="that all workers are at work, about")
    parser.add_argument("--ray-workers", type=int, nargs="*", default=RAY_WORKERS, help="none: without Ray")
    parser.add_argument("--images", type=int, default=100_000, help="of a projected run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, help="PNG to write")
    options = parser.parse_args()

    load = os.getloadavg()[0]
    waiting = measure_engines(options.wait, options.seconds, options.ray_workers)
    show_engines(waiting)
    with tempfile.TemporaryDirectory() as folder:
        images = in_fresh_process(draw_scenes, Path(folder, "scenes"), options.scenes, threads=1)
        image_bytes = mean(path.stat().st_size for path in images.iterdir())
        stages = measure_stages(Path(folder), images)
    show_stages(stages)

    engines = {name: [run for run in waiting if run.engine == name] for name in dict.fromkeys(run.engine for run in waiting)}
    parameters = {name: engine_parameters(runs) for name, runs in engines.items()}
    checks = [check for runs in engines.values() for check in check_engine(runs)]
    for stage, runs in stages.items():
        checks += check_stage(stage, runs["1 worker"], runs["2 workers"], parameters["local"])
    show_checks(checks)
    points = project_all(stages, image_bytes, parameters, options.images, options.seed)
    show_projection(points, options.images)
    if options.plot:
        from scaling_plot import plot  # matplotlib is an extra

        shown = [point for point in points if point.stage == "expressions"]
        plot(options.plot, shown, waiting, {name: [runs["1 worker"], runs["2 workers"]] for name, runs in stages.items()})
    return close(options, load, waiting, stages, checks, points)


def project_all(
    stages: dict[str, dict[str, StageRun]], image_bytes: float, parameters: dict[str, Cluster], images: int, seed: int
) -> list[Point]:
    """Both stages on clusters, by Ray where that was measured; prints with what parameters."""
    engine = "ray" if "ray" in parameters else "local"
    points = []
    for stage, runs in stages.items():
        cluster = cluster_of(runs["none"], runs["1 worker"], image_bytes, parameters[engine])
        print_table([f"{stage}, on a cluster", "", "source"], sources(cluster))
        points += project(stage, cluster, runs["1 worker"].image_seconds, images, engine, seed)
    return points


def close(
    options: argparse.Namespace,
    load: float,
    waiting: Sequence[WaitingRun],
    stages: dict[str, dict[str, StageRun]],
    checks: Sequence[Check],
    points: Sequence[Point],
) -> int:
    """Prints the JSON line; returns the exit code."""
    pairs = {stage: (runs["1 worker"], runs["2 workers"]) for stage, runs in stages.items()}
    different = sum(len(differing(runs["none"], run)) for runs in stages.values() for run in runs.values())
    print_json(
        {
            "benchmark": "scaling",
            "load_at_start": load,
            "scenes": options.scenes,
            "speedup": {stage: round(two.rate / one.rate, 3) for stage, (one, two) in pairs.items()},
            "command_speedup": {stage: round(one.seconds / two.seconds, 3) for stage, (one, two) in pairs.items()},
            "files_different": different,
            "overhead": {f"{run.engine} {run.workers}": round(run.share, 4) for run in waiting},
            "driver_cpu_ms": {f"{run.engine} {run.workers}": round(run.driver_cpu * 1e3, 3) for run in waiting},
            "largest_projection_error": max(abs(check.error) for check in checks),
            "projected_images_per_second": {
                f"{point.stage}, {point.cost:g} s, {point.run.workers} GPUs": round(point.run.images_per_second, 2)
                for point in points
                if point.run.workers in SHOWN_SIZES
            },
        }
    )
    return int(different > 0)


if __name__ == "__main__":
    raise SystemExit(main())
