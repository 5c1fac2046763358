"""From drawn images without labels to a table of trained models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from forked import run_forked

from pseudo_ris.cli.lab import weakly_supervised as weakly_supervised_command
from pseudo_ris.errors import UserError
from pseudo_ris.lab import weakly_supervised
from pseudo_ris.lab.weakly_supervised import BOTH, CONFIG, GROUND_TRUTH, ROWS, Machine, print_table, summary
from pseudo_ris.ris.config import TrainConfig
from pseudo_ris.ris.evaluation.metrics import Overlap
from pseudo_ris.ris.evaluation.scores import Results, SentenceScore
from pseudo_ris.stages.settings import parse_config


def config_of(row, out: Path) -> TrainConfig:
    return parse_config(TrainConfig, [f"--config={CONFIG}", "--data.dataset=drawn", *row.options(out)])


def test_rows_differ_in_what_their_names_say(tmp_path):
    configs = {row.name: config_of(row, tmp_path) for row in ROWS}
    truth = configs.pop(GROUND_TRUTH)
    assert (truth.data.pairs, truth.data.fraction) == ("", 1.0)
    for name, config in configs.items():
        assert config.data.fraction == 0, "no ground truth is learnt from"
        assert ("calibrated" in Path(config.data.pairs).parts[-2]) == ("calibrated" in name and "neither" not in name)
        assert (config.data.threshold == 1.2) == ("filtered" in name and "neither" not in name)
        assert (config.masking.image, config.masking.text) == ("MaskRIS" in name,) * 2
    assert len(configs) == 5


def results(intersection: int, union: int) -> Results:
    overlap = Overlap(intersection, union)
    scores = [SentenceScore("mask", place, (kind,), overlap, overlap) for place, kind in enumerate(("attribute", "position"))]
    return Results.of(scores)


def test_several_seeds_have_mean_and_deviation(capsys):
    rows = summary({BOTH: [results(1, 2), results(3, 4)], GROUND_TRUTH: [results(1, 1), results(1, 1)]})
    assert rows[BOTH]["oiou"] == pytest.approx(0.625)
    assert rows[BOTH]["oiou_deviation"] == pytest.approx(0.125 * 2**0.5)
    assert rows[BOTH]["miou_position"] == pytest.approx(0.625)
    print_table(rows)
    assert f"| {BOTH} | 0.625 ± 0.177 |" in capsys.readouterr().out
    assert "oiou_deviation" not in summary({BOTH: [results(1, 2)]})[BOTH]


def test_a_failed_command_is_named_with_its_reason(tmp_path):
    job = ["-c", "raise SystemExit('error: no such thing')"]
    with pytest.raises(UserError, match=r"0\.log: ended with exit code 1: error: no such thing"):
        Machine(1).run([job], tmp_path)


@pytest.mark.slow
def test_the_whole_way_and_once_more(tmp_path, monkeypatch, capsys):
    """With one row of each source of data; the others differ in options only, see above, and take a process each."""
    rows = [row for row in ROWS if row.name in (GROUND_TRUTH, BOTH)]
    monkeypatch.setattr(weakly_supervised_command, "ROWS", rows)
    monkeypatch.setattr(weakly_supervised.subprocess, "run", run_forked)
    options = ["--out", str(tmp_path / "out"), "--train", "3", "--val", "2", "--test", "6", "--steps", "2", "--workers", "1"]
    assert weakly_supervised_command.main(options) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(figures["rows"]) == [row.name for row in rows] == [GROUND_TRUTH, BOTH]
    assert figures["oiou_pseudo"] == figures["rows"][BOTH]["oiou"]
    assert figures["oiou_ground_truth"] == figures["rows"][GROUND_TRUTH]["oiou"]
    assert all(0 <= row["oiou"] <= 1 for row in figures["rows"].values())
    trained = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/models/*/best.pt")}
    assert len(trained) == len(rows)
    assert weakly_supervised_command.main(options) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["rows"] == figures["rows"]
    assert {path: path.stat().st_mtime_ns for path in trained} == trained
