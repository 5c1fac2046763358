"""What a pretending process counted, as JSON."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from tests.pretended_gpu import attention, waits
from tests.pretended_gpu.checks import MISMATCHES
from tests.pretended_gpu.runtime import loaded_runtime


def write_report(folder: str, operators: int) -> None:
    """Writes <folder>/<pid>.json. operators: how many ran.

    Fields: command; operators; peak_bytes of cuda:0; refused_allocations; refused_launches (kernels that no operator stands
    for, 0 in a sound run); mismatches; waits, a list of the fields of `waits.Wait` and their number; attention, likewise.
    """
    runtime = loaded_runtime()
    report = {
        "command": sys.argv,
        "operators": operators,
        "peak_bytes": runtime.pretended_peak_bytes(0),
        "refused_allocations": runtime.pretended_refused_allocations(),
        "refused_launches": runtime.pretended_refused_launches(),
        "mismatches": MISMATCHES,
        "waits": [{**wait._asdict(), "number": number} for wait, number in waits.COUNTS.most_common()],
        "attention": [{**kind._asdict(), "number": number} for kind, number in attention.COUNTS.most_common()],
    }
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / f"{os.getpid()}.json").write_text(json.dumps(report, indent=1))


def read_reports(folder: Path) -> list[dict]:
    """The reports of all processes that ended with setting REPORT at `folder`; a killed process wrote none."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
