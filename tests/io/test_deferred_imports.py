"""What the start of a command leaves out, in processes of their own."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = "[name for name in ('torch._dynamo', 'transformers') if name in sys.modules]"


def printed(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.slow
def test_a_stage_starts_without_the_compiler_and_transformers():
    code = (
        "import sys\n"
        "from pseudo_ris.runtime.entry import importing\n"
        "with importing():\n    import pseudo_ris.stages.captions, pseudo_ris.stages.masks\n"
        f"print({HEAVY})\n"
        "import transformers, open_clip.hf_model; print(transformers.AutoModel is not None, open_clip.hf_model.transformers)\n"
    )
    assert printed(code).splitlines() == ["[]", "True None"]


@pytest.mark.slow
def test_the_library_leaves_open_clip_whole_and_torchvision_works_without_the_compiler():
    code = (
        "import sys, torch\n"
        "import pseudo_ris.models.cutler.roi_heads\n"
        "from torchvision.ops import roi_align\n"
        f"print({HEAVY})\n"
        "import inspect, torchvision.ops.roi_align as loaded\n"
        "module = sys.modules['torchvision.ops.roi_align']\n"
        "pooled = roi_align(torch.ones(1, 1, 4, 4), [torch.tensor([[0.0, 0.0, 2.0, 2.0]])], 1)\n"
        "print(pooled.item(), 'def' in inspect.getsource(module))\n"
        "from torch._dynamo.utils import is_compile_supported\n"
        "print(module.is_compile_supported('cpu') == is_compile_supported('cpu'))\n"
        "import pseudo_ris.models.coca.captioner, open_clip.hf_model; print(open_clip.hf_model.transformers.__name__)\n"
    )
    assert printed(code).splitlines() == ["[]", "1.0 True", "True", "transformers"]
