"""What the tests of downloads share: a file, its manifest entries, servers that give it, and what must hold after a fetch."""

from __future__ import annotations

import contextlib
import hashlib
import random

import pytest
from faulty_server import Behaviour, FaultyServer

from pseudo_ris.checkpoints.download import fetch
from pseudo_ris.checkpoints.manifest import WeightsFile
from pseudo_ris.checkpoints.transfer import Patience
from pseudo_ris.errors import UserError

CONTENT = random.Random(0).randbytes(1_000_003)
OTHER = random.Random(1).randbytes(len(CONTENT))
SHA256 = hashlib.sha256(CONTENT).hexdigest()
IMPATIENT = Patience(stall_seconds=20, attempts=2, pause_seconds=0.0)
NAME = "weights.pth"


@contextlib.contextmanager
def servers(monkeypatch):
    """Gives a function that starts a server; reached without the proxy or hub mirror of whoever runs the tests."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    with contextlib.ExitStack() as stack:
        yield lambda **behaviour: stack.enter_context(FaultyServer(Behaviour(**{"content": CONTENT, **behaviour})))


def published(*urls, **changes):
    fields = {"model": "cutler", "architecture": "a", "licence": "MIT", "used_for": "tests", "file": NAME, "sha256": SHA256}
    return WeightsFile(**{"name": "w", **fields, "size": len(CONTENT), "urls": urls, **changes})


def unpublished(*urls):
    return published(*urls, sha256=None, size=None)


def get(entry, folder, **options):
    return fetch(entry, folder, **{"patience": IMPATIENT, **options})


def refused(entry, folder, **options):
    """The one line with which a fetch ends; nothing is at the target's name."""
    with pytest.raises(UserError) as caught:
        get(entry, folder, **options)
    assert "\n" not in str(caught.value)
    assert not (folder / NAME).exists()
    return str(caught.value)


def assert_clean(folder, *others):
    """The right file is there and nothing unfinished."""
    assert (folder / NAME).read_bytes() == CONTENT
    assert {path.name for path in folder.iterdir()} == {NAME, ".lock", *others}
