"""Damaged and hostile inputs are read or refused; see mutate.py, which does the damage and looks on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
LIMIT = 600
FEW = {"json": 120, "pickle": 80, "csv": 100, "lmdb": 100, "parquet": 40, "tar": 40, "mask": 20}
MANY = {"json": 2500, "pickle": 2000, "csv": 2000, "lmdb": 2500, "parquet": 400, "tar": 400, "mask": 200}


def run(folder: Path, seed: int, counts: dict[str, int]) -> None:
    """Everything in one process, whose end shows a crash too."""
    tasks = [f"{kind}={count}" for kind, count in counts.items()]
    paths = os.pathsep.join(map(str, (HERE, HERE.parents[1])))
    done = subprocess.run(
        [sys.executable, str(HERE / "mutate.py"), str(seed), str(folder), *tasks],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for kind, count in counts.items():
        read, refused = map(int, re.search(rf"^{kind}: (\d+) read, (\d+) refused$", done.stdout, re.M).groups())
        assert read + refused == count
        assert refused > 0
        assert read > 0


def test_500_mutated_inputs_end_in_a_reading_or_a_clear_error(tmp_path):
    assert sum(FEW.values()) == 500
    run(tmp_path, 1, FEW)


@pytest.mark.slow
@pytest.mark.parametrize("kind", MANY)
def test_10000_mutated_inputs_end_in_a_reading_or_a_clear_error(tmp_path, kind):
    assert sum(MANY.values()) == 10_000
    run(tmp_path, 2, {kind: MANY[kind]})
