"""The pretended GPU finds what a real one would."""

from __future__ import annotations

import json

import pytest

from tests.pretended_gpu.launch import needs_pretended_gpu, run_pretended

pytestmark = [pytest.mark.slow, needs_pretended_gpu]

SCRIPT = """
import json, subprocess, sys, torch
a = torch.ones(3, 3, device="cuda:1")
assert (a @ a).sum().item() == 27
try:
    a + torch.ones(3, 3)
except RuntimeError as error:
    found = str(error)
child = subprocess.run([sys.executable, "-c", "import torch; print(torch.cuda.device_count())"], capture_output=True, text=True)
print(json.dumps([torch.cuda.device_count(), found, child.stdout]))
"""


def test_torch_believes_in_the_devices_and_mixed_devices_are_refused(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = run_pretended([str(script)], settings={"GPUS": 2, "REPORT": tmp_path / "report"}, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    count, found, child = json.loads(done.stdout)
    assert count == 2 and child == "2\n"
    assert "Expected all tensors to be on the same device" in found
    assert len(list((tmp_path / "report").iterdir())) == 2
