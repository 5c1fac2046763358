"""Image ids: the names of an image's folder of masks, its caption part and its CSV rows."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from pseudo_ris.errors import UserError
from pseudo_ris.records import ImageRecord

META = "_meta"
"""Folder beside the masks, by which they are recognized."""
MAX_BYTES = 200
MAX_NAMED = 3
COCO_NAME = re.compile(r"(?:COCO_[a-z]+\d{4}_)?(\d{12})")
RESERVED = re.compile(
    rf"{META}|_failures|failures\.csv|failures\..*-of-.*\.csv|shards|shards\.old|.*\.(?:parts|tmp)|\..*",
    re.IGNORECASE | re.DOTALL,
)
"""Names in the outputs that are not those of images; names with a leading dot are locks, status and temporary files.

In any case: a file system may take `_META` for `_meta`.
"""
FORBIDDEN = frozenset("/\0")
REMEDY = "rename the file, or change the id in the list that gives it"
NOT_UTF8 = "the name is not UTF-8; rename the file"


def image_id_of(name: str) -> str:
    """Id of the image at relative path `name`: `COCO_train2014_000000000009.jpg` -> "9", `a/b.png` -> "a__b"."""
    stem = name.rsplit(".", 1)[0]
    coco = COCO_NAME.fullmatch(stem.rsplit("/", 1)[-1])
    return str(int(coco[1])) if coco else stem.replace("/", "__")


def names_a_folder(image_id: str) -> bool:
    """Whether a folder of masks can have the id as its name."""
    return _objection(image_id) == ""


def unusable_images(records: Sequence[ImageRecord]) -> dict[str, str]:
    """Image name -> reason, of the images whose id can name no files, or whose own name is not UTF-8."""
    found = ((record.name, _objection(record.image_id) if _is_utf8(record.name) else NOT_UTF8) for record in records)
    return {name: f"{printable(name)}: {reason}" for name, reason in found if reason}


def require_distinct(records: Sequence[ImageRecord], case_sensitive: bool = True) -> None:
    """Raises UserError that names the images when two have one id.

    case_sensitive: False where the results go to a file system that takes `Dog` and `dog` for one name.
    """
    ids = [record.image_id if case_sensitive else record.image_id.casefold() for record in records]
    if len(set(ids)) == len(ids):
        return
    names = defaultdict(list)
    for image_id, record in zip(ids, records, strict=True):
        names[image_id].append(printable(record.name))
    shared = {image_id: of_id for image_id, of_id in names.items() if len(of_id) > 1}
    image_id, of_id = next(iter(shared.items()))
    files = ", ".join(of_id[:MAX_NAMED]) + (f" and {len(of_id) - MAX_NAMED} more" if len(of_id) > MAX_NAMED else "")
    where = "" if case_sensitive else " (results go to a file system that ignores case)"
    others = f"; {len(shared) - 1} more ids are shared" if len(shared) > 1 else ""
    raise UserError(
        f"{files}: have the same image id {printable(image_id)[:40]}{where}{others}; "
        "rename all but one, or change the ids in the list that gives them"
    )


def printable(text: str) -> str:
    r"""`text` as UTF-8 can hold it: a byte of a file name that is not UTF-8 becomes `\xe9`."""
    if _is_utf8(text):
        return text
    escaped = re.sub("[\udc80-\udcff]", lambda byte: rf"\x{ord(byte[0]) - 0xDC00:02x}", text)
    return escaped.encode("utf-8", "backslashreplace").decode("utf-8")


def _objection(image_id: str) -> str:
    """Why the id can name no files, "" when it can. Asked of millions."""
    if RESERVED.fullmatch(image_id):
        return f"image id {printable(image_id)[:40]} is a name that the outputs use themselves; {REMEDY}"
    if not image_id or not FORBIDDEN.isdisjoint(image_id):
        return f"image id {image_id[:40]!r} cannot name a folder; {REMEDY}"
    if not _is_utf8(image_id):
        return NOT_UTF8
    if len(image_id.encode()) > MAX_BYTES:
        return f"image id {image_id[:40]}... has more than {MAX_BYTES} bytes; shorten the path or give the image a shorter id"
    return ""


def _is_utf8(text: str) -> bool:
    try:
        return text.isascii() or text.encode() is not None
    except UnicodeEncodeError:
        return False
