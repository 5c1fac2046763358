"""Resume and quarantine around a per-image loop."""

import importlib.util
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pseudo_ris.config import MaskGenerationConfig
from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.records import ImageRecord
from pseudo_ris.runtime.dispatch import run_loop
from pseudo_ris.runtime.engine.job import Died
from pseudo_ris.runtime.failures import write_failures
from pseudo_ris.runtime.image_loop import Failure, Outcome
from pseudo_ris.runtime.runs import EXIT_FAILURES, Run, read_failures
from pseudo_ris.runtime.shares import ALL, Shard


def records(*names: str) -> list[ImageRecord]:
    return [ImageRecord(name.split(".")[0], name, Path(name).read_bytes) for name in names]


FOUR = records("a.jpg", "b.jpg", "c.jpg", "d.jpg")
HALVES = (Shard(0, 2), Shard(1, 2))


def failed_images(path):
    return [failure.image for failure in read_failures(path)]


def work(folder, images, bad=(), done=(), retry=False, key="k", shard=ALL):
    """Runs a stage that fails on `bad`; returns (images worked on, exit code, run)."""
    run = Run("test", folder, images, retry, shard)
    tried = []
    for record in run.images():
        with run.guard(record):
            if not run.is_needed(record, key, record.name in done):
                continue
            tried.append(record.name)
            if record.name in bad:
                raise BadInputError(f"{record.name}: is bad")
            run.finished(record)
    return tried, run.close(), run


def test_failures_are_recorded_in_image_order_and_the_run_goes_on(tmp_path):
    images = records("a.jpg", "b.jpg", "c.jpg", "d.jpg")
    tried, code, run = work(tmp_path, images, bad=("c.jpg", "a.jpg"))
    assert (tried, code) == (["a.jpg", "b.jpg", "c.jpg", "d.jpg"], EXIT_FAILURES)
    assert [failure.image for failure in read_failures(tmp_path / "failures.csv")] == ["a.jpg", "c.jpg"]
    assert [record.name for record in run.current()] == ["b.jpg", "d.jpg"]


def test_known_failures_are_not_tried_again_unless_something_changed(tmp_path):
    images = records("a.jpg", "b.jpg")
    work(tmp_path, images, bad=("a.jpg",))
    tried, code, _ = work(tmp_path, images, bad=("a.jpg",), done=("b.jpg",))
    assert (tried, code) == ([], EXIT_FAILURES)
    tried, code, _ = work(tmp_path, images, done=("b.jpg",), key="other")
    assert (tried, code) == (["a.jpg"], 0)
    assert not (tmp_path / "failures.csv").exists()


def test_retry_redoes_just_the_failed_and_never_counts_stale_results(tmp_path):
    images = records("a.jpg", "b.jpg", "c.jpg")
    work(tmp_path, images[:2], bad=("a.jpg",))
    tried, code, run = work(tmp_path, images, done=("b.jpg",), retry=True)
    assert (tried, code) == (["a.jpg"], 0)
    assert [record.name for record in run.current()] == ["a.jpg", "b.jpg"]
    assert run.counts["left_out"] == 1


@pytest.mark.parametrize("shard", [ALL, *HALVES])
def test_two_images_with_one_id_end_the_run_before_it_begins(tmp_path, shard):
    with pytest.raises(UserError, match=r"a\.jpg, a\.png: have the same image id a; rename"):
        work(tmp_path, records("a.jpg", "a.png", "b.jpg"), shard=shard)
    assert not (tmp_path / "failures.csv").exists()


def test_no_image_can_be_named_like_the_folder_of_tracebacks(tmp_path):
    tried, code, _ = work(tmp_path, records("_failures.jpg", "a.jpg"))
    assert (tried, code) == (["a.jpg"], EXIT_FAILURES)


def test_ids_that_name_no_file_touch_none(tmp_path):
    images = [ImageRecord(image_id, f"{n}.jpg", bytes) for n, image_id in enumerate(("../secret", "x" * 300, "a\0b", ".."))]
    (tmp_path / "_failures").mkdir()
    (tmp_path / "secret.txt").touch()
    for _ in range(2):
        tried, code, _ = work(tmp_path, images)
        assert (tried, code) == ([], EXIT_FAILURES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["failures.csv", "secret.txt"]


def test_unexpected_errors_are_quarantined_with_their_type(tmp_path, capsys):
    run = Run("test", tmp_path, records("a.jpg"), False)
    for record in run.images():
        with run.guard(record):
            raise ZeroDivisionError("oops")
    assert run.close() == EXIT_FAILURES
    assert read_failures(tmp_path / "failures.csv")[0].reason == "ZeroDivisionError: oops"
    assert "Traceback" in capsys.readouterr().err


def test_errors_of_the_whole_run_pass_through(tmp_path):
    run = Run("test", tmp_path, records("a.jpg"), False)
    with pytest.raises(UserError, match="disk"):
        for record in run.images():
            with run.guard(record):
                raise UserError("disk is full")


def test_a_foreign_failures_file_is_refused(tmp_path):
    (tmp_path / "failures.csv").write_text("x,y\n1,2\n")
    with pytest.raises(UserError, match="not a failures file"):
        Run("test", tmp_path, records("a.jpg"), False)


def test_a_failures_file_that_was_cut_short_is_read_as_far_as_it_goes(tmp_path):
    path = tmp_path / "failures.csv"
    reasons = ["no image", 'a "quoted", one', "two\nlines", "größer", "the last"]
    written = [Failure(f"{n}", f"{n}.jpg", reason, f"key{n}") for n, reason in enumerate(reasons)]
    write_failures(path, written)
    whole = path.read_bytes()
    seen = set()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        read = read_failures(path)
        assert read == written[: len(read)]
        seen.add(len(read))
    assert seen == {0, 1, 2, 3, 4, 5}


def test_what_a_failures_file_says_of_no_image_of_the_run_goes(tmp_path):
    write_failures(tmp_path / "failures.csv", [Failure("x", "x.jpg", "bad", "k")])
    assert work(tmp_path, records("a.jpg"))[1] == 0
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "failures.csv").write_text("image_id,ima")
    assert work(tmp_path, records("a.jpg"), done=("a.jpg",))[1] == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content", [b"image_id,image\n1,2\n", b"PK\x03\x04\xff", b"image_id,image,reason,key\n1,2\n1,a,b,c\n", b"\n", b"image_id,x"]
)
def test_what_is_no_beginning_of_a_failures_file_is_refused(tmp_path, content):
    (tmp_path / "failures.csv").write_bytes(content)
    with pytest.raises(UserError, match="not a failures file"):
        read_failures(tmp_path / "failures.csv")


def test_many_failures_are_written_seldom_but_all_in_the_end(tmp_path):
    path = tmp_path / "failures.csv"
    images = records(*(f"{n:03d}.jpg" for n in range(300)))
    written = set()
    with Run("test", tmp_path, images, False) as run:
        for image in images:
            run.take(image, Outcome(image.name, "failed", "bad", "k"))
            written.add(path.stat().st_mtime_ns)
    assert len(written) < 30
    assert failed_images(path) == [image.name for image in images]


@pytest.mark.parametrize("error", [UserError, KeyboardInterrupt])
def test_failures_are_whole_when_a_run_is_broken_off(tmp_path, error):
    images = records(*"abcdefgh")
    with pytest.raises(error), Run("test", tmp_path, images, False) as run:
        for image in images[::-1]:
            run.take(image, Outcome(image.name, "failed", "bad", "k"))
        raise error
    assert failed_images(tmp_path / "failures.csv") == list("abcdefgh")


def fail_with_traceback(folder, images, shard=ALL):
    """A run in which each image fails for a reason that is not its own."""
    with Run("test", folder, images, False, shard) as run:
        for record in run.images():
            with run.guard(record):
                run.is_needed(record, "k", False)
                raise ZeroDivisionError(record.name)
        return run.close()


def tracebacks(folder):
    return sorted(path.name for path in (folder / "_failures").iterdir())


def test_tracebacks_are_kept_until_the_image_is_made_or_fails_otherwise(tmp_path, capsys):
    images = records("a.jpg", "b.jpg", "c.jpg")
    assert fail_with_traceback(tmp_path, images) == EXIT_FAILURES
    said = capsys.readouterr()
    assert f"  tracebacks in {tmp_path / '_failures'}" in said.out
    assert said.err.count("Traceback") == 3
    assert tracebacks(tmp_path) == ["a.txt", "b.txt", "c.txt"]
    text = (tmp_path / "_failures" / "a.txt").read_text()
    assert text.startswith("Traceback (most recent call last):\n")
    assert text.endswith("ZeroDivisionError: a.jpg\n")
    assert "in guard" not in text
    assert f"{__file__}" in text
    work(tmp_path, images)
    assert tracebacks(tmp_path) == ["a.txt", "b.txt", "c.txt"], "known failures, not tried again"
    work(tmp_path, images, bad=("b.jpg",), done=("a.jpg",), retry=True)
    assert not (tmp_path / "_failures").exists()
    assert failed_images(tmp_path / "failures.csv") == ["b.jpg"]


def test_tracebacks_that_no_failure_speaks_of_are_cleared(tmp_path):
    images = records("a.jpg", "b.jpg")
    fail_with_traceback(tmp_path, images)
    (tmp_path / "_failures" / "gone.txt").touch()
    (tmp_path / "_failures" / ".a.txt.12345678.tmp").touch()
    (tmp_path / "failures.csv").unlink()  # as after a kill before it was written
    work(tmp_path, images[:1])
    assert [path.name for path in tmp_path.iterdir()] == []


def test_a_shard_leaves_the_tracebacks_of_others_alone(tmp_path):
    for shard in HALVES:
        fail_with_traceback(tmp_path, FOUR, shard)
    work(tmp_path, FOUR, shard=HALVES[0], key="new")
    assert tracebacks(tmp_path) == ["b.txt", "d.txt"]
    work(tmp_path, FOUR, done=("a.jpg", "c.jpg"), key="new")
    assert [path.name for path in tmp_path.iterdir()] == []


RECIPE = """
from pseudo_ris.errors import BadInputError

def divide(config, images):
    for record in images.images():
        with images.guard(record):
            data = record.read()
            images.is_needed(record, "k", False)
            try:
                1 / len(data)
            except ZeroDivisionError as error:
                raise RuntimeError(record.name) from error
            images.finished(record)
"""


def test_tracebacks_do_not_depend_on_the_engine(tmp_path):
    (tmp_path / "recipe.py").write_text(RECIPE)
    (tmp_path / "empty").touch()
    spec = importlib.util.spec_from_file_location("recipe", tmp_path / "recipe.py")
    sys.modules["recipe"] = recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    images = [ImageRecord("a", "a", (tmp_path / "empty").read_bytes), ImageRecord("b", "b", (tmp_path / "none").read_bytes)]
    for engine in ("none", "local"):
        config = replace(MaskGenerationConfig(), engine=engine, workers=1)
        with Run("test", tmp_path / engine, images, False) as run:
            run_loop(recipe.divide, config, run)
            assert run.close() == EXIT_FAILURES
    assert tracebacks(tmp_path / "none") == ["a.txt", "b.txt"]
    assert contents(tmp_path / "none") == contents(tmp_path / "local")


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Notebook:
    """A keeper that writes down what it is told."""

    def __init__(self, *unchanged):
        self.unchanged, self.asked, self.told = unchanged, [], []

    def is_unchanged(self, record):
        self.asked.append(record.name)
        return record.name in self.unchanged

    def settled(self, record, outcome):
        self.told.append((record.name, outcome.status))


@pytest.mark.parametrize("retry", [False, True])
def test_what_the_keeper_knows_to_be_unchanged_is_not_handed_out(tmp_path, retry):
    work(tmp_path, FOUR, bad=("a.jpg", "d.jpg"))
    keeper = Notebook("a.jpg", "c.jpg")
    with Run("test", tmp_path, records("a.jpg", "shards.jpg", "c.jpg", "d.jpg", "_meta.png"), retry, keeper=keeper) as run:
        handed = run.usable()
        run.take(handed[0], Outcome("d.jpg", "made"))
        assert [record.name for record in run.current()] == ["a.jpg", "c.jpg", "d.jpg"]
        run.close()
    assert [record.name for record in handed] == ["d.jpg"]
    assert keeper.asked == ["a.jpg", "c.jpg", "d.jpg"], "not those whose ids are reserved"
    assert keeper.told == [
        ("a.jpg", "reused"), ("shards.jpg", "failed"), ("c.jpg", "reused"), ("_meta.png", "failed"), ("d.jpg", "made"),
    ]  # fmt: skip
    assert failed_images(tmp_path / "failures.csv") == ["_meta.png", "shards.jpg"], "what has a result is no failure"


def test_the_summary_says_what_each_worker_has_done(tmp_path, capsys):
    images = records(*(f"{n:02d}" for n in range(30)))
    with Run("test", tmp_path, images, False) as run:
        for number, image in enumerate(images[:25]):
            run.take(image, Outcome(image.name, "made", seconds=1.5, worker=f"worker {number}"))
        run.take(images[25], Outcome(images[25].name, "made", seconds=2.5, worker="worker 2"))
        run.take(images[26], Outcome(images[26].name, "failed", "bad", worker="worker 10"))
        run.take(images[27], Outcome(images[27].name, "reused", seconds=0.1, worker="worker 10"))
        run.died(Died("27", "killed", True, "worker 10"))
        run.close()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("test: 30 images: 26 made, ")
    assert lines[3] == "  worker 2: 2 made, 2.00 s each"
    assert lines[11] == "  worker 10: 1 made, 1.50 s each, 1 failed, died once"
    assert lines[20:22] == ["  worker 19: 1 made, 1.50 s each", "  and 5 more workers"]


def status_files(folder):
    return sorted(path.name for path in folder.glob(".status*"))


def test_the_status_file_is_there_while_the_run_goes(tmp_path):
    with Run("test", tmp_path, FOUR, False) as run:
        said = json.loads((tmp_path / ".status.json").read_text())
        assert (said["stage"], said["total"], said["counts"], said["pid"]) == ("test", 4, {}, os.getpid())
        run.take(FOUR[0], Outcome("a.jpg", "failed", "bad"))
        assert (run.status().counts, run.status().failed) == ({"failed": 1}, 1)
        run.close()
    assert [path.name for path in tmp_path.iterdir()] == ["failures.csv"]


def test_the_status_file_stays_after_an_error_and_goes_with_the_next_run(tmp_path):
    for shard in (*HALVES, ALL):
        with pytest.raises(UserError), Run("test", tmp_path, FOUR, False, shard) as run:
            run.take(run.records[0], Outcome(run.records[0].name, "made"))
            raise UserError("disk is full")
    assert status_files(tmp_path) == [".status.0-of-2.json", ".status.1-of-2.json", ".status.json"]
    assert json.loads((tmp_path / ".status.json").read_text())["counts"] == {"made": 1}, "as far as it came"
    with Run("test", tmp_path, FOUR, False, HALVES[0]):
        pass
    assert status_files(tmp_path) == [".status.1-of-2.json", ".status.json"]
    with Run("test", tmp_path, FOUR, False):
        pass
    assert list(tmp_path.iterdir()) == []


def test_shards_keep_failures_of_their_own_and_the_closing_run_takes_them_in(tmp_path):
    for shard, images in zip(HALVES, (["a.jpg", "c.jpg"], ["b.jpg", "d.jpg"]), strict=True):
        tried, code, _ = work(tmp_path, FOUR, bad=("a.jpg", "c.jpg", "d.jpg"), shard=shard)
        assert (tried, code) == (images, EXIT_FAILURES)
    assert not (tmp_path / "failures.csv").exists()
    assert failed_images(tmp_path / "failures.0-of-2.csv") == ["a.jpg", "c.jpg"]
    assert failed_images(tmp_path / "failures.1-of-2.csv") == ["d.jpg"]
    tried, code, _ = work(tmp_path, FOUR, done=("b.jpg",))
    assert (tried, code) == ([], EXIT_FAILURES)
    assert [path.name for path in tmp_path.iterdir()] == ["failures.csv"]
    work(tmp_path / "one", FOUR, bad=("a.jpg", "c.jpg", "d.jpg"))
    assert (tmp_path / "failures.csv").read_bytes() == (tmp_path / "one" / "failures.csv").read_bytes()


def test_a_shard_leaves_known_failures_alone_and_says_so(tmp_path, capsys):
    work(tmp_path, FOUR, bad=("a.jpg", "b.jpg"))
    tried, code, _ = work(tmp_path, FOUR, done=("c.jpg",), shard=HALVES[0])
    assert (tried, code) == ([], EXIT_FAILURES)
    assert "test 0/2: 2 images: 0 made, 1 reused, 1 failed" in capsys.readouterr().out
    assert failed_images(tmp_path / "failures.0-of-2.csv") == ["a.jpg"]
    assert failed_images(tmp_path / "failures.csv") == ["a.jpg", "b.jpg"]


def test_what_a_shard_redoes_is_no_failure_after_the_closing_run(tmp_path):
    work(tmp_path, FOUR, bad=("a.jpg", "b.jpg", "c.jpg"))
    tried, _, _ = work(tmp_path, FOUR, bad=("c.jpg",), retry=True, shard=HALVES[0])
    assert tried == ["a.jpg", "c.jpg"]
    tried, code, run = work(tmp_path, FOUR, done=("a.jpg", "d.jpg"))
    assert (tried, code) == ([], EXIT_FAILURES)
    assert failed_images(tmp_path / "failures.csv") == ["b.jpg", "c.jpg"]
    assert [record.name for record in run.current()] == ["a.jpg", "d.jpg"]


def test_failures_with_other_settings_are_tried_again_in_the_closing_run(tmp_path):
    work(tmp_path, FOUR, bad=("a.jpg", "b.jpg"), key="old")
    work(tmp_path, FOUR, bad=("a.jpg",), key="new", shard=HALVES[0])
    tried, _, _ = work(tmp_path, FOUR, done=("c.jpg", "d.jpg"), key="new")
    assert tried == ["b.jpg"]
    assert failed_images(tmp_path / "failures.csv") == ["a.jpg"]


def test_a_closing_run_that_stops_at_once_loses_no_failure(tmp_path):
    work(tmp_path, FOUR, bad=("a.jpg",), shard=HALVES[0])
    Run("test", tmp_path, FOUR, False)
    assert failed_images(tmp_path / "failures.csv") == ["a.jpg"]


def test_unusable_ids_are_listed_by_shards_and_by_the_closing_run(tmp_path):
    images = records("_failures.jpg", "_meta.png", "b.jpg")
    assert [work(tmp_path, images, shard=shard)[0] for shard in HALVES] == [["b.jpg"], []]
    work(tmp_path, images, done=("b.jpg",))
    assert failed_images(tmp_path / "failures.csv") == ["_failures.jpg", "_meta.png"]
    assert {failure.key for failure in read_failures(tmp_path / "failures.csv")} == {""}, "no other image's"
