"""Resume and quarantine around a per-image loop."""

from pathlib import Path

import pytest

from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.records import ImageRecord
from pseudo_ris.runs import EXIT_FAILURES, Run, read_failures


def records(*names: str) -> list[ImageRecord]:
    return [ImageRecord(name.split(".")[0], Path(name), name) for name in names]


def work(folder, images, bad=(), done=(), retry=False, key="k"):
    """Runs a stage that fails on `bad`; returns (images worked on, exit code, run)."""
    run = Run("test", folder, images, retry)
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
    assert run.left_out == 1


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
