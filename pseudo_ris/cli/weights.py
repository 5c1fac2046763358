"""Downloads published weights, lists them, and verifies those at hand.

pseudo-ris weights download [PRESET or NAME ...] [--from DIR] [--to DIR]
pseudo-ris weights list
pseudo-ris weights verify [PRESET or NAME ...]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from pseudo_ris.checkpoints.download import fetch, verify
from pseudo_ris.checkpoints.manifest import WeightsFile, local_path, read_manifest, weights_folder
from pseudo_ris.cli.parsing import CommandParser
from pseudo_ris.errors import UserError
from pseudo_ris.io.terminal import print_error
from pseudo_ris.runtime.command import EXIT_USER_ERROR


def main(argv: Sequence[str]) -> int:
    """Runs the command with options `argv`; returns the exit code. Raises UserError.

    download prints the paths of the files on stdout, one a line, and everything else on stderr.
    """
    options = make_parser().parse_args(argv)
    manifest = read_manifest()
    folder = options.to
    if options.command == "list":
        print("\n".join(table_of(list(manifest.files.values()), folder)))
        return 0
    if options.command == "verify":
        entries = [entry for entry in manifest.select(options.names) if local_path(entry, folder).is_file()]
        print(f"{len(entries)} files of {', '.join(options.names)} are in {folder}")
        return _each(entries, lambda entry: f"{entry.name}: sha256 {verify(entry, folder)}")
    if options.source_folder and not options.source_folder.is_dir():
        raise UserError(f"--from {options.source_folder}: no such folder; give the one that holds the files")
    return _each(manifest.select(options.names), lambda entry: fetch(entry, folder, options.source_folder).absolute())


def _each(entries: Sequence[WeightsFile], work: Callable[[WeightsFile], object]) -> int:
    """Prints what `work` says of each file; an error with one does not stop the others."""
    code = 0
    for entry in entries:
        try:
            print(work(entry), flush=True)
        except UserError as error:
            print_error(str(error))
            code = EXIT_USER_ERROR
    return code


def make_parser() -> CommandParser:
    parser = CommandParser("weights", __doc__, epilog=f"Files are in {weights_folder()} unless --to names another folder.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="download | list | verify")
    download = commands.add_parser("download", help="download and verify files")
    listing = commands.add_parser("list", help="list all files and whether each is at hand")
    check = commands.add_parser("verify", help="verify the checksums of files at hand")
    for command in (download, check):
        command.add_argument(
            "names", nargs="*", default=["default"], metavar="NAME", help="preset or file, see list; without one: default"
        )
    download.add_argument(
        "--from", dest="source_folder", type=Path, metavar="DIR", help="take the files from DIR, not the network"
    )
    for command in (download, listing, check):
        command.add_argument("--to", type=Path, metavar="DIR", default=weights_folder(), help="weights folder")
    return parser


def table_of(entries: Sequence[WeightsFile], folder: Path) -> list[str]:
    """Lines of a table: each published file, its size and licence, and whether it is in `folder`."""
    rows = [("name", "size", "there", "licence", "used for")]
    for entry in entries:
        there = "yes" if local_path(entry, folder).is_file() else "no"
        rows.append((entry.name, _megabytes(entry.size), there, entry.licence, entry.used_for))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _megabytes(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 1e6:,.0f} MB"
