"""python -m tests.pretended_gpu SCRIPT ARGUMENTS...    python -m tests.pretended_gpu -m MODULE ARGUMENTS..."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from tests.pretended_gpu.runtime import enter


def main() -> None:
    """Runs a script or a module in a process that has pretended GPUs."""
    if len(sys.argv) < 2 or sys.argv[1:] == ["-m"]:
        sys.exit("usage: python -m tests.pretended_gpu [-m MODULE | SCRIPT] ARGUMENTS...")
    enter()
    arguments = sys.argv[1:]
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path[0] = str(Path(arguments[0]).resolve().parent)
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    main()
