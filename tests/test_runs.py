"""Resume and quarantine around a per-image loop."""

import threading
from pathlib import Path

import pytest

from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.image_loop import read_ahead
from pseudo_ris.records import ImageRecord
from pseudo_ris.runs import EXIT_FAILURES, Run, read_failures
from pseudo_ris.shards import ALL, Shard


def records(*names: str) -> list[ImageRecord]:
    return [ImageRecord(name.split(".")[0], name, Path(name).read_bytes) for name in names]


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


def test_clashing_ids_fail_without_stopping_others(tmp_path):
    tried, code, _ = work(tmp_path, records("a.jpg", "a.png", "b.jpg"))
    assert (tried, code) == (["b.jpg"], EXIT_FAILURES)
    assert [failure.image for failure in read_failures(tmp_path / "failures.csv")] == ["a.jpg", "a.png"]


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


FOUR = records("a.jpg", "b.jpg", "c.jpg", "d.jpg")
HALVES = (Shard(0, 2), Shard(1, 2))


def failed_images(path):
    return [failure.image for failure in read_failures(path)]


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


def test_ids_that_clash_between_shards_are_found_by_both(tmp_path):
    images = records("a.jpg", "a.png", "b.jpg")
    assert [work(tmp_path, images, shard=shard)[0] for shard in HALVES] == [["b.jpg"], []]
    work(tmp_path, images, done=("b.jpg",))
    assert failed_images(tmp_path / "failures.csv") == ["a.jpg", "a.png"]
    assert {failure.key for failure in read_failures(tmp_path / "failures.csv")} == {""}, "no other image's"


def test_files_are_read_ahead_in_order_and_errors_come_with_their_image():
    read: list[str] = []

    def reader(name):
        def read_it():
            read.append(name)
            if name == "c":
                raise BadInputError("c: is bad")
            return name.encode()

        return read_it

    names = list("abcdefg")
    ahead = read_ahead((ImageRecord(name, name, reader(name)) for name in names), count=2)
    first = next(ahead)
    assert (first.name, first.read()) == ("a", b"a")
    second, third = next(ahead), next(ahead)
    assert (second.read(), second.read()) == (b"b", b"b")
    with pytest.raises(BadInputError, match="c: is bad"):
        third.read()
    assert len(read) <= 5, "no more than two ahead of the one that is worked on"
    assert [record.read() for record in ahead] == [b"d", b"e", b"f", b"g"]
    assert read == names


def test_reading_ahead_ends_with_its_reader():
    read: list[str] = []
    ahead = read_ahead((ImageRecord(str(n), str(n), lambda n=n: read.append(str(n)) or b"") for n in range(100)), count=3)
    next(ahead).read()
    ahead.close()
    assert len(read) <= 4
    assert "read_ahead" not in " ".join(thread.name for thread in threading.enumerate())
