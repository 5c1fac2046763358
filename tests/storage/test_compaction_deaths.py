"""Deaths at every step that changes the disk, before and after it: the next run ends with the same bytes."""

import multiprocessing
import os
import random
import shutil
import signal
import threading
from pathlib import Path

import pytest
from small_stages import Masks, Parts, contents, copy_of, draw_images, run_stage

pytestmark = pytest.mark.slow

STEPS = [(Path, "replace"), (Path, "rename"), (Path, "unlink"), (Path, "rmdir"), (shutil, "rmtree")]


class DeathError(BaseException):
    """Nothing the dead process would still have done may happen: every later step raises it, too."""


class Dying:
    """Lets the process die before its `last` step that changes the disk, or after it; of a folder half is removed.

    Other threads' steps do not count.
    """

    def __init__(self, monkeypatch, last, after):
        self.left, self.after = last, after
        for owner, name in STEPS:
            monkeypatch.setattr(owner, name, self._wrapped(name, getattr(owner, name)))

    def _wrapped(self, name, real):
        def step(path, *arguments, **options):
            changes_nothing = name in ("unlink", "rmdir") and not path.exists()
            if changes_nothing or threading.current_thread() is not threading.main_thread():
                return real(path, *arguments, **options)
            self.left -= 1
            if self.left < 0 or (self.left == 0 and not self.after):
                self.die()
            done = (half_removed if self.left == 0 and name == "rmtree" else real)(path, *arguments, **options)
            if self.left == 0:
                self.die()
            return done

        return step

    def die(self):
        raise DeathError


class Killed(Dying):
    """Dies as by kill -9."""

    def die(self):
        os.kill(os.getpid(), signal.SIGKILL)


def half_removed(folder, ignore_errors=False):
    files = [path for path in sorted(Path(folder).rglob("*")) if path.is_file()]
    for path in files[: (len(files) + 1) // 2]:
        os.unlink(path)  # noqa: PTH108 (Path's own counts as a step)


@pytest.fixture(autouse=True)
def no_wait_for_the_disk(monkeypatch):
    """Only a crash of the machine loses what was written but not flushed, and no process here dies that way."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def images(tmp_path):
    return draw_images(tmp_path / "images", ["a", "b", "c", "d", "e"])


def fresh(kind, images, folder):
    return kind(folder)


def with_failures(kind, images, folder):
    run_stage(stage := kind(folder), images, 2, bad=["b", "e"])
    return stage


def with_other_images(kind, images, folder):
    run_stage(stage := kind(folder), draw_images(images.parent / "others", ["a", "bb", "d", "e", "x"]), 2)
    return stage


def with_other_settings(kind, images, folder):
    run_stage(stage := kind(folder), images, 2, settings="old")
    return stage


def in_files(kind, images, folder):
    run_stage(stage := kind(folder), images, 0)
    return stage


@pytest.mark.parametrize("kind", [Parts, Masks])
@pytest.mark.parametrize("before", [fresh, with_failures, with_other_images, with_other_settings, in_files])
def test_death_at_any_step_changes_no_byte(kind, before, images, tmp_path):
    start = before(kind, images, tmp_path / "start")
    start.folder.mkdir(exist_ok=True)
    whole = copy_of(start, tmp_path / "whole")
    run_stage(whole, images, 2, retry=before is with_failures)
    expected = contents(whole.folder)
    steps = 0
    for after in (False, True):
        for left in range(1, 1000):
            stage = copy_of(start, tmp_path / f"{after}{left}")
            with pytest.MonkeyPatch.context() as patch:
                Dying(patch, left, after)
                try:
                    run_stage(stage, images, 2, retry=before is with_failures)
                    break
                except DeathError:
                    steps += 1
            run_stage(stage, images, 2, retry=False)
            assert contents(stage.folder) == expected, f"{before.__name__}: death {'after' if after else 'before'} step {left}"
    assert steps > 10


def killed_run(folder, images, last, after):
    with pytest.MonkeyPatch.context() as patch:
        Killed(patch, last, after)
        run_stage(Masks(folder), images, 2)


def test_real_kills_change_no_byte(images, tmp_path):
    rng = random.Random(0)
    start = with_other_images(Masks, images, tmp_path / "start")
    run_stage(whole := copy_of(start, tmp_path / "whole"), images, 2)
    stage = copy_of(start, tmp_path / "killed")
    deaths = 0
    for _ in range(8):
        process = multiprocessing.get_context("spawn").Process(
            target=killed_run, args=(stage.folder, images, rng.randint(1, 12), rng.random() < 0.5)
        )
        process.start()
        process.join()
        deaths += process.exitcode == -signal.SIGKILL
    assert deaths > 4
    run_stage(stage, images, 2)
    assert contents(stage.folder) == contents(whole.folder)
