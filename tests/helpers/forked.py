"""`pseudo-ris` in a forked process: as in a new one, without the seconds that its imports take."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from subprocess import CompletedProcess
from typing import IO

from pseudo_ris.cli import main


def run_forked(command: Sequence[str], env: Mapping[str, str], stdout: IO[str], stderr: int) -> CompletedProcess[str]:
    """As subprocess.run for `python -m pseudo_ris.cli WORDS`; stderr goes where stdout goes, threads are the caller's."""
    assert command[1:3] == ["-m", "pseudo_ris.cli"]
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.dup2(stdout.fileno(), 1)
            os.dup2(stdout.fileno(), 2)
            sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
            os.environ.update(env)
            sys.argv = ["pseudo-ris", *command[3:]]
            main.run()
            code = 0
        except SystemExit as ended:
            code = ended.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return CompletedProcess(list(command), os.waitstatus_to_exitcode(status))
