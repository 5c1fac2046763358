"""Rounds over the images, whatever becomes of the workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_loop import record, settings, tiny

from pseudo_ris.config import EngineConfig
from pseudo_ris.errors import UserError
from pseudo_ris.runtime.dispatch import open_engine, outcomes_of, run_loop, threads_of, visible_gpus
from pseudo_ris.runtime.engine import local as local_engine
from pseudo_ris.runtime.engine.job import Died, HandedBack, Job, Report, Task
from pseudo_ris.runtime.engine.local import LocalEngine, cpu_worker_count, gpu_worker_count
from pseudo_ris.runtime.image_loop import Outcome
from pseudo_ris.runtime.runs import EXIT_FAILURES, Run, read_failures

NAMES = [*(f"image-{n}" for n in range(20)), "bad", "broken", "kill", "once-1", "once-2", "exit-1", "term-1"]


def local(folder: Path, workers: int, **changes) -> LocalEngine:
    return LocalEngine(Job.of(tiny, settings(folder, **changes)), workers, [], 0)


def tasks(*names: str) -> list[Task]:
    return [Task(record(name)) for name in names]


def ended(engine: LocalEngine, names: Sequence[str]) -> dict[str, Outcome]:
    with engine:
        return {task.record.name: outcome for task, outcome in outcomes_of(engine, tasks(*names))}


@pytest.mark.slow
def test_each_image_ends_once_and_only_the_guilty_fail(tmp_path):
    names = [name for name in NAMES if not name.startswith("term")]
    with local(tmp_path, 2) as engine:
        dead: list[str] = []
        results = list(outcomes_of(engine, tasks(*names), lambda death: dead.append(death.image)))
    assert sorted(task.record.name for task, _ in results) == sorted(names)
    failed = {task.record.name: outcome for task, outcome in results if outcome.status == "failed"}
    assert sorted(failed) == ["bad", "broken", "exit-1", "kill"]
    assert failed["kill"].reason == "kill: twice its worker ended with SIGKILL (it said nothing)"
    assert failed["kill"].key == failed["exit-1"].key == "", "tried again by the next run"
    assert {path.stem for path in tmp_path.glob("*.txt")} == set(names) - set(failed)
    assert sorted(dead) == ["exit-1", "exit-1", "kill", "kill", "once-1", "once-2"]
    assert engine.alive == 0, "no process is left"


@pytest.mark.slow
def test_files_do_not_depend_on_the_number_of_workers(tmp_path):
    names = [f"image-{n}" for n in range(12)]
    for workers in (1, 2, 3):
        folder = tmp_path / str(workers)
        folder.mkdir()
        ended(local(folder, workers), names)
    one, two, three = ({path.name: path.read_bytes() for path in (tmp_path / n).glob("*.txt")} for n in "123")
    assert len(one) == 12
    assert one == two == three


@pytest.mark.slow
def test_workers_that_all_die_end_the_run(tmp_path):
    with pytest.raises(UserError, match=r"10 workers have died and none has finished an image: .*SIGKILL"):
        ended(local(tmp_path, 2), [f"kill-{n}" for n in range(30)])


@pytest.mark.slow
def test_many_poisonous_images_do_not_end_the_run(tmp_path):
    outcomes = ended(local(tmp_path, 2), ["image", *(f"kill-{n}" for n in range(6))])
    assert [name for name, outcome in outcomes.items() if outcome.status == "made"] == ["image"]
    assert len(outcomes) == 7


@pytest.mark.parametrize("names", [["stop"], ["image", "stop", "slow"]])
def test_an_error_of_the_whole_run_ends_all_workers(tmp_path, names):
    engine = local(tmp_path, 2)
    with pytest.raises(UserError, match="the disk is full"):
        ended(engine, names)
    assert engine.alive == 0


class ScriptedEngine:
    """Reports what the script says of each round: image -> report, None is lost with its machine."""

    name, dashboard = "scripted", ""
    count = alive = in_service = 1

    def __init__(self, *rounds: dict[str, Report | None]) -> None:
        self.rounds = list(rounds)

    def reports(self, tasks: Sequence[Task]) -> Iterator[Report]:
        said = self.rounds.pop(0)
        assert [task.record.name for task in tasks] == list(said)
        for report in said.values():
            self.in_service -= isinstance(report, Died) and report.retired
            if report is not None:
                yield report


MADE_A, MADE_B = Outcome("a", "made"), Outcome("b", "made")
DEAD_B, ENDED_B = Died("b", "its worker ended", True), Died("b", "its worker was told to end", False)


@pytest.mark.parametrize(
    "rounds",
    [
        [{"a": MADE_A, "b": None}, {"b": MADE_B}],
        [{"a": None, "b": None}, {"a": None, "b": None}, {"a": MADE_A, "b": None}, {"b": None}, {"b": None}, {"b": MADE_B}],
        [{"a": MADE_A, "b": DEAD_B}, {"b": MADE_B}],
        [{"a": MADE_A, "b": ENDED_B}, {"b": ENDED_B}, {"b": ENDED_B}, {"b": DEAD_B}, {"b": MADE_B}],
        [{"a": MADE_A, "b": DEAD_B}, {"b": None}, {"b": MADE_B}],
    ],
)
def test_what_is_lost_is_tried_again(rounds):
    engine = ScriptedEngine(*rounds)
    assert {outcome for _, outcome in outcomes_of(engine, tasks("a", "b"))} == {MADE_A, MADE_B}
    assert engine.rounds == []


def test_two_deaths_condemn_an_image_also_with_losses_between():
    engine = ScriptedEngine({"a": MADE_A, "b": DEAD_B}, {"b": ENDED_B}, {"b": None}, {"b": DEAD_B})
    found = [outcome for task, outcome in outcomes_of(engine, tasks("a", "b")) if task.record.name == "b"]
    assert [(outcome.status, outcome.reason) for outcome in found] == [("failed", "b: twice its worker ended")]


def test_machines_that_are_all_lost_end_the_run():
    with pytest.raises(UserError, match="are there machines left"):
        list(outcomes_of(ScriptedEngine(*[{"a": None}] * 3), tasks("a")))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["none", "local"])
def test_a_run_is_the_same_with_workers(tmp_path, engine, monkeypatch):
    names = ["image-1", "bad", "broken", "image-2"]
    config = settings(tmp_path, engine=engine, device="cpu", workers=2, gpus_per_worker=1, image_timeout=0)
    for changed, made in ((config, 2), (config, 0), (settings(**vars(config) | {"key": "new"}), 0)):
        run = Run("test", tmp_path, [record(name) for name in names], changed.retry_failed)
        run_loop(tiny, changed, run)
        assert run.close() == EXIT_FAILURES
        assert run.counts["made"] == made
        assert run.counts["known"] == (2 if changed is config and not made else 0)
        assert [failure.image for failure in read_failures(tmp_path / "failures.csv")] == ["bad", "broken"]
        assert [each.name for each in run.current()] == ["image-1", "image-2"]


def test_images_with_unusable_ids_are_not_handed_out(tmp_path):
    images = [replace(record(name), image_id=image_id) for name, image_id in (("image", "_meta"), ("other", "a/b"))]
    run = Run("test", tmp_path, images, False)
    run_loop(tiny, settings(tmp_path, engine="local", device="cpu", workers=1, gpus_per_worker=1, image_timeout=0), run)
    assert run.close() == EXIT_FAILURES
    assert not list(tmp_path.glob("*.txt"))


def test_shares_of_a_machine(monkeypatch):
    monkeypatch.setattr("pseudo_ris.runtime.dispatch.core_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [threads_of(3), threads_of(8), threads_of(20)] == [2, 1, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert threads_of(3) == 0


@pytest.mark.parametrize(
    ("gpus", "share", "count"), [(2, 1, 2), (2, 0.5, 4), (3, 0.4, 6), (1, 0.3, 3), (1, 0.1, 10), (2, 0.7, 2)]
)
def test_shares_of_a_gpu_never_add_up_to_more_than_one(gpus, share, count):
    assert gpu_worker_count(["gpu"] * gpus, share) == count


def test_cpu_workers_are_as_many_as_memory_holds(monkeypatch, capsys):
    monkeypatch.setattr(local_engine, "core_count", lambda: 16)
    monkeypatch.setattr(local_engine, "free_memory", lambda: 32 << 30)
    assert cpu_worker_count(1 << 30) == 16
    assert capsys.readouterr().out == ""
    assert cpu_worker_count(6 << 30) == 5
    (line,) = capsys.readouterr().out.splitlines()
    assert "5 and not one for each of 16 cores" in line
    assert "--workers" in line
    assert cpu_worker_count(64 << 30) == 1


@pytest.mark.parametrize(
    ("variable", "seen", "names"),
    [(None, 2, ["0", "1"]), ("2,GPU-1", 2, ["2", "GPU-1"]), ("0,-1,1", 1, ["0"]), ("-1", 0, []), ("", 0, []), ("0", 0, [])],
)
def test_only_gpus_that_cuda_sees_are_handed_out(monkeypatch, variable, seen, names):
    """seen: how many GPUs CUDA finds with that variable."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: seen)
    if variable is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert visible_gpus() == names


@pytest.mark.parametrize(
    ("gpus", "count", "expected"),
    [
        (["0", "1"], 2, [("0", 1), ("1", 1)]),
        (["0", "1"], 3, [("0", 0.5), ("1", 1), ("0", 0.5)]),
        (["0", "1", "2", "3"], 2, [("0", 1), ("1", 1)]),
    ],
)
def test_a_worker_has_one_gpu_and_its_share_of_the_memory(tmp_path, gpus, count, expected):
    engine = LocalEngine(Job.of(tiny, settings(tmp_path)), count, gpus, 0)
    workers = engine._workers
    assert [(w._environment["CUDA_VISIBLE_DEVICES"], w.job.memory_share) for w in workers] == expected
    assert {worker.job.device for worker in workers} == {"cuda"}


def test_workers_on_the_cpu_share_its_memory(tmp_path):
    engine = LocalEngine(Job.of(tiny, settings(tmp_path)), 4, [], 0)
    assert [(worker.job.device, worker.job.memory_share) for worker in engine._workers] == [("", 0.25)] * 4


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_gpus_are_handed_out_unless_the_cpu_is_asked_for(tmp_path, monkeypatch, device):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    config = settings(tmp_path, engine="local", device=device, workers=0, gpus_per_worker=0.5)
    engine = open_engine(tiny, config, lambda device: 0)
    assert [worker._environment["CUDA_VISIBLE_DEVICES"] for worker in engine._workers] == ["0", "1", "0", "1"]
    config.device = "cpu"
    assert not any("CUDA_VISIBLE_DEVICES" in w._environment for w in open_engine(tiny, config, lambda device: 0)._workers)


def test_an_engine_needs_gpus_where_they_are_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(UserError, match="--device cuda: there is no GPU to hand out"):
        open_engine(tiny, settings(tmp_path, engine="local", device="cuda", workers=0), lambda device: 0)


def gpu_lost(image: str, worker: str, blamed: bool = True, retired: bool = False, gpu: str = "") -> Died:
    return Died(image, "GPU cuda:0 failed", blamed, worker, gpu or f"GPU of {worker}", retired)


def test_one_broken_gpu_condemns_no_image():
    """It fails twice with b and is retired at c; the other worker makes both."""
    engine = ScriptedEngine(
        {"a": MADE_A, "b": gpu_lost("b", "w1"), "c": HandedBack("c")},
        {"b": gpu_lost("b", "w1"), "c": HandedBack("c")},
        {"b": MADE_B, "c": gpu_lost("c", "w1", retired=True)},
        {"c": Outcome("c", "made")},
    )
    engine.in_service = 2
    assert [outcome.status for _, outcome in outcomes_of(engine, tasks("a", "b", "c"))] == ["made"] * 3


def test_an_image_that_two_gpus_fail_with_is_given_up_and_not_remembered():
    engine = ScriptedEngine({"a": MADE_A, "b": gpu_lost("b", "w1")}, {"b": gpu_lost("b", "w2")})
    failed = [outcome for _, outcome in outcomes_of(engine, tasks("a", "b"))][1]
    assert (failed.status, failed.key) == ("failed", "")
    assert "GPU cuda:0 failed" in failed.reason


def test_two_workers_on_one_broken_gpu_condemn_no_image():
    """Neither while both still serve, nor when the image comes back to them until both are retired."""
    lost = [{"b": gpu_lost("b", f"w{n % 2}", gpu="1", retired=n >= 4)} for n in range(6)]
    engine = ScriptedEngine({"a": MADE_A, "b": gpu_lost("b", "w0", gpu="1")}, *lost[1:], {"b": MADE_B})
    engine.in_service = 4
    assert [outcome.status for _, outcome in outcomes_of(engine, tasks("a", "b"))] == ["made"] * 2


def test_an_image_that_costs_the_only_gpu_each_time_is_given_up_in_the_end():
    rounds = [{"b": gpu_lost("b", "w1")}] * 3
    engine = ScriptedEngine({"a": MADE_A, "b": gpu_lost("b", "w1")}, *rounds)
    failed = [outcome for _, outcome in outcomes_of(engine, tasks("a", "b"))][1]
    assert (failed.status, failed.key, failed.reason) == ("failed", "", "b: GPU cuda:0 failed")


def test_without_a_gpu_that_works_the_run_ends():
    """Nobody has tried b."""
    engine = ScriptedEngine({"a": gpu_lost("a", "w1", False, True), "b": None})
    with pytest.raises(UserError, match="no worker is left whose GPU works: GPU cuda:0 failed"):
        list(outcomes_of(engine, tasks("a", "b")))


@pytest.mark.slow
def test_a_broken_gpu_does_not_take_the_images_of_a_healthy_one(tmp_path, capsys):
    names = [f"picky-{n}" for n in range(12)]
    run = Run("test", tmp_path, [record(name) for name in names], False)
    with LocalEngine(Job.of(tiny, settings(tmp_path)), 2, ["1", "0"], 0) as engine:
        results = list(outcomes_of(engine, tasks(*names), run.died))
    assert [outcome.status for _, outcome in results] == ["made"] * 12
    assert {outcome.worker for _, outcome in results} == {"worker 1"}
    assert engine.in_service in (1, 2), "it may all have been done before the third start"


def test_bad_settings_are_refused():
    with pytest.raises(UserError, match="gpus_per_worker: must be greater than 0"):
        EngineConfig(gpus_per_worker=0)
    with pytest.raises(UserError, match="workers: must be 0 or more"):
        EngineConfig(workers=-1)
    with pytest.raises(UserError, match="gpus_per_worker: a worker uses one GPU"):
        EngineConfig(gpus_per_worker=2)
    with pytest.raises(UserError, match="--device cuda:1: --engine local hands out the GPUs itself; give cuda or auto"):
        EngineConfig(engine="local", device="cuda:1")
    assert EngineConfig(device="cuda:1").engine == "none"
