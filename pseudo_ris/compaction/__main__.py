"""Makes files of what is in shards, as a run without --shard-size leaves them, and removes the shards.

python -m pseudo_ris.compaction --masks DIR
python -m pseudo_ris.compaction --output DIR [--name NAME]
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from pseudo_ris.cli import run_recipe
from pseudo_ris.compaction.archive import shard_paths
from pseudo_ris.compaction.layout import recover
from pseudo_ris.compaction.rows import read_rows
from pseudo_ris.config import CaptionGenerationConfig
from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.files import writing
from pseudo_ris.image_ids import names_a_folder
from pseudo_ris.interchange.parts import PartStore
from pseudo_ris.masks.store import MaskStore
from pseudo_ris.shards import ALL


def loosen(store: MaskStore | PartStore) -> int:
    """Writes the files of all rows, those that have been made anew since left alone; returns how many images were written.

    Stopped, it goes on where it was. Raises UserError.
    """
    folder, written = store.archive.folder, 0
    recover(folder)
    loose = store.loose_ids()
    for path in shard_paths(folder):
        try:
            for row in read_rows(path):
                if not names_a_folder(row.image_id):
                    raise UserError(f"{path}: image id {row.image_id!r:.80} is no name of a folder; remove the shard")
                if row.image_id not in loose or store.loose_row(row.image_id) is None:
                    store.restore(row)
                    written += 1
        except BadInputError as error:
            raise UserError(str(error)) from error
    if folder.exists():
        with writing(folder):
            shutil.rmtree(folder)
    store.archive.forget()
    return written


def main(argv: Sequence[str]) -> int:
    """The command line above."""
    parser = argparse.ArgumentParser(prog="python -m pseudo_ris.compaction", description=__doc__.splitlines()[0])
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--masks", type=Path, help="stage 1's folder")
    place.add_argument("--output", type=Path, help="stage 2's folder")
    parser.add_argument("--name", default=CaptionGenerationConfig().name, help="NAME of stage 2's files (default: %(default)s)")
    options = parser.parse_args(argv)
    store = MaskStore.existing(options.masks) if options.masks else PartStore(options.output, options.name)
    if not store.folder.is_dir():
        raise UserError(f"{store.folder}: no such folder; give what the stage had as --output and --name")
    with store.working(ALL):
        print(f"{loosen(store)} images have files of their own again in {store.folder}")
    return 0


if __name__ == "__main__":
    run_recipe(main)
