"""Progress and failures of the runs on a folder: `pseudo-ris status OUT`.

OUT is stage 1's folder of masks, stage 2's folder of pairs, or a folder that holds such folders. The exit code is 0, 3 when
images have failed, and 2 when OUT is none of these. A run that died is reported as such; the same command continues it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pseudo_ris.cli.parsing import CommandParser
from pseudo_ris.runtime.runs import EXIT_FAILURES
from pseudo_ris.storage.status import look_at, stage_folders


def main(argv: Sequence[str]) -> int:
    """Prints what is known of the folder in `argv`; returns the exit code (0, or 3 when images failed). Raises UserError."""
    options = make_parser().parse_args(argv)
    seen = [look_at(folder) for folder in stage_folders(options.folder)]
    if options.json:
        print(json.dumps([folder.as_json() for folder in seen], ensure_ascii=False, indent=1))
    else:
        print("\n".join(line for folder in seen for line in folder.lines()))
    return EXIT_FAILURES if any(folder.failures for folder in seen) else 0


def make_parser() -> CommandParser:
    parser = CommandParser("status", __doc__)
    parser.add_argument("folder", metavar="OUT", type=Path, help="masks, pairs, or the folder above them")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser
