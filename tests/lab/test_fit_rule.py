"""`pseudo-ris lab fit-rule`: fitted on some drawn scenes, judged on others."""

from __future__ import annotations

import pytest

from pseudo_ris.cli.lab import fit_rule as command
from pseudo_ris.lab.fit_rule import PROBABILITIES
from pseudo_ris.pairs.fitted import read_rule


@pytest.mark.slow
def test_a_rule_is_fitted_on_validation_scenes_and_judged_on_evaluation_scenes(tmp_path, capsys):
    rule = tmp_path / "rule.json"
    assert command.main(["--scenes", "5", "--seed", "3", "--workers", "1", "--output", str(rule)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert read_rule(rule).fitted_on["images"] == 5
    assert read_rule(rule).fitted_on["auc"] > 0.7
    kept = [int(line.split("|")[2]) for line in said if line.startswith("| fitted")]
    assert len(kept) == len(PROBABILITIES)
    assert kept == sorted(kept, reverse=True) and kept[0] > 0
