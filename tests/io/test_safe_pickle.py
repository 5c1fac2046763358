"""Pickles from elsewhere: plain data is read, nothing is run, and damage costs neither memory nor the process."""

from __future__ import annotations

import pickle
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from pseudo_ris.io.safe_pickle import load_plain_pickle

VALUE = [None, True, -(2**70), 1.5, "é🎈\n", [], (), {}, {"a": [1, {"b": (2, "c")}], 3: None, 2.5: "d"}]
FROM_PROTOCOL = {3: [b"0", b"\xff"], 4: [{1, "a"}, frozenset({b"b"})]}
"""Values that earlier protocols only have as calls."""


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_are_read(protocol):
    for value in (VALUE, *(value for first, value in FROM_PROTOCOL.items() if protocol >= first)):
        assert load_plain_pickle(pickle.dumps(value, protocol), "x") == value


HARM = {
    "2**40 bytes": b"\x80\x05\x8e" + (2**40).to_bytes(8, "little") + b"x.",
    "a bytearray of 2**36": b"\x80\x05\x96" + (2**36).to_bytes(8, "little") + b".",
    "a key of many tuples": b"\x80\x02}" + b")" + b"\x85" * 200_000 + b"Ns.",
    "a key of shared tuples": b"\x80\x02})" + b"2\x86" * 60 + b"Ns.",
    "tuples in a set": b"\x80\x04\x8f()\x85\x90.",
    "tuples in a frozen set": b"\x80\x04()\x85\x91.",
    "tuples as keys of a dict": b"\x80\x02()\x85Nd.",
    "tuples as keys of items": b"\x80\x02}()\x85Nu.",
    "state of a list": b"\x80\x02]}b.",
    "a persistent id": b"\x80\x02NQ.",
    "a registered extension": b"\x80\x02\x82\x01.",
    "a name": b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93.",
}


HARMLESS = {
    "a memo of 2**31 places": b"\x80\x02]r\xff\xff\xff\x7f.",
    "a frame of 2**40": b"\x80\x05\x95" + (2**40).to_bytes(8, "little") + b"].",
}
"""Empty lists, whatever they say. The first makes C's unpickler fill 32 GiB."""
READ_EACH = """
import ast, sys
from pseudo_ris.errors import UserError
from pseudo_ris.io.safe_pickle import load_plain_pickle
for name, data in ast.literal_eval(sys.stdin.read()).items():
    try:
        print(name, "is", load_plain_pickle(data, "the file"))
    except UserError as error:
        print(error)
"""


def test_harm_is_refused_in_little_memory():
    limit = 2 << 30
    done = subprocess.run(
        [sys.executable, "-c", READ_EACH],
        input=repr(HARM | HARMLESS),
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[len(HARM) :] == [f"{name} is []" for name in HARMLESS]
    assert all(line.startswith("the file: not a pickle of plain data (") for line in lines[: len(HARM)]), lines
