"""Turns shards back into one file per image, as a run without --shard-size writes them."""

from __future__ import annotations

import shutil

from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.io.files import writing
from pseudo_ris.io.image_ids import names_a_folder
from pseudo_ris.storage.caption_parts import PartStore
from pseudo_ris.storage.compaction.archive import shard_paths
from pseudo_ris.storage.compaction.layout import recover
from pseudo_ris.storage.compaction.rows import read_rows
from pseudo_ris.storage.mask_store import MaskStore


def loosen(store: MaskStore | PartStore) -> int:
    """Writes the files of all rows, except of images that have newer files. Returns the number of images written.

    Can be stopped and started again. Raises UserError.
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
