"""From drawn images without labels to a table of trained models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from forked import run_forked

from pseudo_ris.cli.lab import weakly_supervised as weakly_supervised_command
from pseudo_ris.errors import UserError
from pseudo_ris.lab import weakly_supervised
from pseudo_ris.lab.weakly_supervised import (
    CONFIG,
    GROUND_TRUTH,
    LISTENER,
    NAMED,
    PAPER,
    RECOMMENDED,
    ROWS,
    ZERO_SHOT,
    Machine,
    last_line,
    print_table,
    rows_of,
    summary,
)
from pseudo_ris.ris.config import TrainConfig
from pseudo_ris.ris.evaluation.metrics import Overlap
from pseudo_ris.ris.evaluation.scores import Results, SentenceScore
from pseudo_ris.stages.settings import parse_config


def config_of(row, out: Path) -> TrainConfig:
    return parse_config(TrainConfig, [f"--config={CONFIG}", "--data.dataset=drawn", *row.options(out)])


def test_rows_differ_in_what_their_names_say(tmp_path):
    assert [row.name for row in ROWS if row.judge] == [ZERO_SHOT.name, LISTENER.name]
    configs = {row: config_of(row, tmp_path) for row in ROWS if not row.judge}
    truth = configs.pop(GROUND_TRUTH)
    assert (truth.data.pairs, truth.data.fraction) == ("", 1.0)
    for row, config in configs.items():
        assert config.data.fraction == 0, "no ground truth is learned from"
        assert Path(config.data.pairs).parent.name == row.preset
        assert config.model.name == "sam" and config.model == truth.model and config.schedule == truth.schedule
    assert set(configs) == {PAPER, RECOMMENDED}


def test_a_semi_supervised_comparison_has_each_share_with_and_without_pairs(tmp_path):
    rows = rows_of([10, 100])
    configs = [config_of(row, tmp_path).data for row in rows]
    assert [(config.fraction, bool(config.pairs)) for config in configs] == [(0.1, False), (0.1, True), (1, False), (1, True)]
    assert rows[2] == GROUND_TRUTH
    assert len({row.stem for row in [*rows, PAPER, RECOMMENDED]}) == 6, "each has folders of its own"
    with pytest.raises(UserError, match="--semi 0: must be above 0"):
        rows_of([0])


def results(intersection: int, union: int) -> Results:
    overlap = Overlap(intersection, union)
    scores = [SentenceScore("mask", place, (kind,), overlap, overlap) for place, kind in enumerate(("attribute", "position"))]
    return Results.of(scores)


def test_several_seeds_have_mean_and_deviation(capsys):
    rows = summary({"a": [results(1, 2), results(3, 4)], "b": [results(1, 1), results(1, 1)]})
    assert rows["a"]["oiou"] == pytest.approx(0.625)
    assert rows["a"]["oiou_deviation"] == pytest.approx(0.125 * 2**0.5)
    assert rows["a"]["miou_position"] == pytest.approx(0.625)
    print_table(rows)
    assert "| a     | 0.625 ± 0.177 |" in capsys.readouterr().out
    assert "oiou_deviation" not in summary({"a": [results(1, 2)]})["a"]


def test_the_last_line_has_the_rows_figures_under_short_names():
    rows = summary({row.name: [results(place, 5)] for place, row in enumerate(ROWS)})
    line = last_line(rows, 3.0, [0])
    assert {name: line[f"oiou_{name}"] for name in NAMED} == {
        "zero_shot": 0.0,
        "paper": 0.4,
        "pseudo": 0.6,
        "ground_truth": 0.8,
    }
    assert line["miou_pseudo"] == line["miou_position_pseudo"] == pytest.approx(0.6)
    assert (line["minutes"], line["seeds"], line["rows"]) == (3.0, [0], rows)


def test_a_failed_command_is_named_with_its_reason(tmp_path):
    job = ["-c", "raise SystemExit('error: no such thing')"]
    with pytest.raises(UserError, match=r"0\.log: ended with exit code 1: error: no such thing"):
        Machine(1).run([job], tmp_path)


def test_after_a_failure_no_further_command_begins(tmp_path):
    jobs = [["-c", "raise SystemExit(1)"], *(["-c", f"open(r'{tmp_path / name}', 'w')"] for name in "abc")]
    with pytest.raises(UserError, match=r"0\.log: ended with exit code 1"):
        Machine(1).run(jobs, tmp_path / "logs")
    assert not (tmp_path / "c").exists()


@pytest.mark.slow
def test_the_whole_way_and_once_more(tmp_path, monkeypatch, capsys):
    """With one row of each kind; the others differ in options only, see above, and take a process each."""
    rows = [ZERO_SHOT, RECOMMENDED, GROUND_TRUTH]
    monkeypatch.setattr(weakly_supervised_command, "ROWS", rows)
    monkeypatch.setattr(weakly_supervised, "ROWS", rows)
    monkeypatch.setattr(weakly_supervised.subprocess, "run", run_forked)
    options = ["--out", str(tmp_path / "out"), "--train", "10", "--val", "2", "--test", "4", "--steps", "3", "--workers", "1"]
    assert weakly_supervised_command.main(options) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(figures["rows"]) == [row.name for row in rows]
    for name, row in (("zero_shot", ZERO_SHOT), ("pseudo", RECOMMENDED), ("ground_truth", GROUND_TRUTH)):
        assert figures[f"oiou_{name}"] == figures["rows"][row.name]["oiou"]
        assert 0.2 < figures[f"oiou_{name}"] < 1, "all three start from what the embedded models know"
    trained = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/models/*/best.pt")}
    assert len(trained) == 2
    assert weakly_supervised_command.main(options) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["rows"] == figures["rows"]
    assert {path: path.stat().st_mtime_ns for path in trained} == trained
