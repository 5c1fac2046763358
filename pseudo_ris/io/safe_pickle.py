"""Reading pickles from elsewhere: plain containers and scalars only, so that nothing in them is run."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, NoReturn

from pseudo_ris.errors import UserError

# Of what data sets use as keys: hashing a tuple whose parts are shared or deep takes ages or exhausts the stack.
KEY_TYPES = (str, bytes, int, float, bool, type(None))
NOT_PLAIN = (
    pickle.BUILD,
    pickle.REDUCE,
    pickle.NEWOBJ,
    pickle.NEWOBJ_EX,
    pickle.OBJ,
    pickle.EXT1,
    pickle.EXT2,
    pickle.EXT4,
    pickle.PERSID,
    pickle.BINPERSID,
    pickle.NEXT_BUFFER,
    pickle.READONLY_BUFFER,
    pickle.BYTEARRAY8,
)


def read_plain_pickle(path: Path) -> Any:
    """Content of a pickle file; byte strings of Python 2 become text by Latin-1.

    Raises UserError when the file cannot be read, is damaged or holds anything but plain containers and scalars.
    """
    try:
        with path.open("rb") as file:
            return _load(file, str(path))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; give a pickle file that can be read") from error


def load_plain_pickle(data: bytes, source: str) -> Any:
    """As read_plain_pickle, of bytes; source: what an error calls them."""
    return _load(io.BytesIO(data), source)


def _load(file: BinaryIO, source: str) -> Any:
    try:
        return _PlainUnpickler(file, encoding="latin-1").load()
    except OSError:
        raise
    except Exception as error:  # damaged pickles raise nearly anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{source}: not a pickle of plain data ({reason[:200]}); get the file from its publisher") from error


def _refuse(unpickler: _PlainUnpickler) -> NoReturn:
    raise pickle.UnpicklingError("it asks for objects to be made; only plain lists, dicts, texts and numbers are read")


def _with_plain_keys(code: bytes, keys_of: Callable[[Sequence[Any]], Sequence[Any]]) -> Callable[[_PlainUnpickler], None]:
    """The step of an opcode that hashes `keys_of(stack)`, for keys of KEY_TYPES only."""
    step = pickle._Unpickler.dispatch[code[0]]

    def checked(unpickler: _PlainUnpickler) -> None:
        if not all(type(key) in KEY_TYPES for key in keys_of(unpickler.stack)):
            raise pickle.UnpicklingError("it has keys that are neither text nor numbers")
        step(unpickler)

    return checked


class _PlainUnpickler(pickle._Unpickler):
    """Refuses every name that a pickle asks to import, and every object: classes and functions are how one runs code.

    The unpickler in Python, not the one in C: a damaged number makes that one fill tens of gigabytes.
    """

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **pickle._Unpickler.dispatch,
        **{code[0]: _refuse for code in NOT_PLAIN},
        pickle.DICT[0]: _with_plain_keys(pickle.DICT, lambda stack: stack[::2]),
        pickle.SETITEMS[0]: _with_plain_keys(pickle.SETITEMS, lambda stack: stack[::2]),
        pickle.SETITEM[0]: _with_plain_keys(pickle.SETITEM, lambda stack: stack[-2:-1]),
        pickle.ADDITEMS[0]: _with_plain_keys(pickle.ADDITEMS, lambda stack: stack),
        pickle.FROZENSET[0]: _with_plain_keys(pickle.FROZENSET, lambda stack: stack),
    }

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}; only plain lists, dicts, texts and numbers are read")
