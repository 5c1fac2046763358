"""Damaged and hostile inputs are read or refused; see mutate.py, which does the damage and looks on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HELPERS = Path(__file__).parents[1] / "helpers"
LIMIT = 600
MANY = {"json": 2500, "pickle": 2000, "csv": 2000, "lmdb": 2500, "parquet": 400, "tar": 400, "mask": 200}


@pytest.mark.slow
@pytest.mark.parametrize("kind", MANY)
def test_10000_mutated_inputs_end_in_a_reading_or_a_clear_error(tmp_path, kind):
    """Those of a kind in one process, whose end shows a crash too."""
    assert sum(MANY.values()) == 10_000
    done = subprocess.run(
        [sys.executable, str(HELPERS / "mutate.py"), "2", str(tmp_path), f"{kind}={MANY[kind]}"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (HELPERS, HELPERS.parents[1])))},
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    read, refused = map(int, re.search(rf"^{kind}: (\d+) read, (\d+) refused$", done.stdout, re.M).groups())
    assert read + refused == MANY[kind]
    assert refused > 0
    assert read > 0
