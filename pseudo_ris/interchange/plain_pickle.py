"""Reading pickles from elsewhere: plain containers and scalars only, so that nothing in them is run."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, NoReturn

from pseudo_ris.errors import UserError


class _PlainUnpickler(pickle.Unpickler):
    """Refuses every name that a pickle asks to import: classes and functions are how one runs code."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}; only plain lists, dicts, texts and numbers are read")


def read_plain_pickle(path: Path) -> Any:
    """Content of a pickle file; byte strings of Python 2 become text by Latin-1.

    Raises UserError when the file cannot be read, is damaged or holds anything but plain containers and scalars.
    """
    try:
        with path.open("rb") as file:
            return _PlainUnpickler(file, encoding="latin-1").load()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; give a pickle file that can be read") from error
    except Exception as error:  # damaged pickles raise nearly anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: not a pickle of plain data ({reason[:200]}); get the file from its publisher") from error
