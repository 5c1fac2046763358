"""Waiting policy of torch's CPU threads. Imports nothing heavy, since it must be set before torch is loaded."""

from __future__ import annotations

import os

WAIT_POLICY = "OMP_WAIT_POLICY"


def sleep_while_waiting() -> None:
    """Has OpenMP's threads sleep while they wait for each other, in this process and those it starts, unless the user chose.

    By default libgomp's threads spin for milliseconds at the end of every parallel operation. When another process takes one of
    the cores, they wait in this way for the thread whose core was taken, and keep its other core busy all the while: one busy
    core of two made stage 1 ten times slower. The library reads the environment when it is loaded, so this must come before
    torch is imported.
    """
    os.environ.setdefault(WAIT_POLICY, "passive")
