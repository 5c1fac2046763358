"""What several test files need."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from pseudo_ris.io.gc_tuning import set_aside

ROOT = Path(__file__).parents[1]

settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")  # other processes may take the cores at any time
gc.disable()  # while the tests and all that they test are imported, which makes nothing but what stays


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
            if item.get_closest_marker("gpu"):  # the keywords hold the names of folders, too
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def pytest_collection_finish():
    """From here on garbage is collected, but what was imported is not looked through each time."""
    gc.enable()
    set_aside()
