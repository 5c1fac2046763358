"""Tracebacks of images that failed for a reason other than the image: as text, and on disk."""

from __future__ import annotations

import concurrent.futures
import traceback
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from pseudo_ris.io.files import TEMPORARY_SUFFIX, write_atomic, writing

FOLDER = "_failures"
SUFFIX = ".txt"
FUTURES = str(Path(concurrent.futures.__file__).parent)


def traceback_text(error: BaseException) -> str:
    """The traceback of a caught error, without the frame that caught it and the frames of the read-ahead pool.

    The result does not depend on the process that handled the image.
    """
    described = traceback.TracebackException.from_exception(error)
    described.stack = traceback.StackSummary.from_list(described.stack[1:])
    part: traceback.TracebackException | None = described
    while part is not None:
        part.stack = traceback.StackSummary.from_list(frame for frame in part.stack if not frame.filename.startswith(FUTURES))
        part = part.__cause__ or part.__context__
    return "".join(described.format())


class Tracebacks:
    """The texts in `<folder>/_failures/<image id>.txt`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / FOLDER
        self._ids: set[str] = set()

    def are_there(self) -> bool:
        """True if there are any, also of other shares."""
        return any(self.folder.glob(f"[!.]*{SUFFIX}"))

    def take_in(self, failed: Collection[str], among: Collection[str] | None = None) -> None:
        """Adopts the files of earlier runs, and removes those of images that have not failed. Raises UserError.

        failed, among: image ids. among: the only ids to consider, when other shares may run; None: no other share runs, and
        half-written files are removed too.
        """
        there = [path for path in self.folder.glob(f"[!.]*{SUFFIX}") if among is None or path.stem in among]
        half_written = self.folder.glob(f".*{TEMPORARY_SUFFIX}") if among is None else ()
        self._ids = {path.stem for path in there if path.stem in failed}
        with writing(self.folder):
            for path in (*half_written, *(path for path in there if path.stem not in failed)):
                path.unlink()

    def keep(self, image_id: str, text: str) -> None:
        """Writes the traceback of a failed image. Raises UserError."""
        write_atomic(self._path(image_id), text)
        self._ids.add(image_id)

    def remove(self, image_id: str) -> None:
        """Removes the traceback of an image if it has one; its id need not be a valid file name. Raises UserError."""
        if image_id in self._ids:
            with writing(self.folder):
                self._path(image_id).unlink(missing_ok=True)
            self._ids.discard(image_id)

    def close(self) -> None:
        """Removes the folder if it is empty. Call it only when no other share runs, which may be about to write to it."""
        with suppress(OSError):
            self.folder.rmdir()

    def _path(self, image_id: str) -> Path:
        return self.folder / f"{image_id}{SUFFIX}"
