"""What several test files need."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def demo_images() -> Path:
    """The images of the shipped drawn scenes."""
    return ROOT / "datasets" / "demo" / "images"


@pytest.fixture(autouse=True)
def same_threads():
    """Restores torch's thread count: the last bits of a result depend on it, and evaluation sets it for its process."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def pytest_collection_modifyitems(items):
    """gpu tests are skipped, not failed, where there is no CUDA device."""
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))
