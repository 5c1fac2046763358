"""Rounds over the images, whatever becomes of the workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_loop import record, settings, tiny

from pseudo_ris.config import EngineConfig
from pseudo_ris.engine.job import Died, Job, Report, Task
from pseudo_ris.engine.local import LocalEngine, worker_count
from pseudo_ris.engine.run import outcomes_of, run_loop, threads_of, visible_gpus
from pseudo_ris.errors import UserError
from pseudo_ris.image_loop import Outcome
from pseudo_ris.runs import EXIT_FAILURES, Run, read_failures

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
    count = alive = 1

    def __init__(self, *rounds: dict[str, Report | None]) -> None:
        self.rounds = list(rounds)

    def reports(self, tasks: Sequence[Task]) -> Iterator[Report]:
        said = self.rounds.pop(0)
        assert [task.record.name for task in tasks] == list(said)
        yield from (report for report in said.values() if report is not None)


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
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    assert [worker_count([], 1), worker_count(["0", "1"], 0.5), worker_count(["0", "1"], 2), worker_count(["0"], 2)] == [
        8,
        4,
        1,
        1,
    ]
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [threads_of(3), threads_of(8), threads_of(20)] == [2, 1, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert threads_of(3) == 0
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-1")
    assert visible_gpus() == ["2", "GPU-1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []


@pytest.mark.parametrize(
    ("gpus", "count", "expected"),
    [
        (["0", "1"], 2, ["0", "1"]),
        (["0", "1"], 3, ["0", "1", "0"]),
        (["0", "1", "2", "3"], 2, ["0,2", "1,3"]),
    ],
)
def test_workers_share_the_gpus(tmp_path, gpus, count, expected):
    engine = LocalEngine(Job.of(tiny, settings(tmp_path)), count, gpus, 0)
    assert [worker._environment["CUDA_VISIBLE_DEVICES"] for worker in engine._workers] == expected


def test_bad_settings_are_refused():
    with pytest.raises(UserError, match="gpus_per_worker: must be greater than 0"):
        EngineConfig(gpus_per_worker=0)
    with pytest.raises(UserError, match="workers: must be 0 or more"):
        EngineConfig(workers=-1)
