"""Damages inputs and reads them in a process of its own: `python mutate.py SEED FOLDER KIND=COUNT ...`.

Ends with 0 when every input was read or refused with an error of ours, no code in it ran, and no file outside the set was
opened by Python, given out or written. Prints how many were read and how many refused. To be run in a folder of its own.
"""

from __future__ import annotations

import copy
import csv
import io
import json
import os
import pickle
import shutil
import sys
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random

import lmdb
import pyarrow as pa
import pyarrow.parquet as pq
from random_sets import image, png, thing

from pseudo_ris.config import ScoringConfig
from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.formats.registry import FORMATS, Writing
from pseudo_ris.io.mask_png import encode_mask
from pseudo_ris.pairs.csv_pairs import read_csv
from pseudo_ris.pairs.pair_set import PairImage

SECRET = png(10, 12, 99)
MARK = str(Path.cwd() / "MARK")
HOSTILE = (
    None, True, -1, 0, 1, 7, 2**31, 2**63, -(2**70), 1.5, float("nan"), float("inf"),
    "", "x", "..", "/", ".", "val", "testA", "a\0b", "\ud800", "9" * 5000, "0" * 999, "PPPP", "oooooooo0",
    "../secret.png", "7/../../secret.png", "link.png", "folder/secret.png", "loop.png",
    [], {}, [[]], [-1], [10**9, 10**9], [[0, 0, 9, 0, 9, 9]], [[1, 1, 5, 5]], [[1e300, 0, 9, -1e300, 9, 9]], [[0, 0] * 50],
    {"size": [10, 12], "counts": "9"}, {"size": [10**6, 10**6], "counts": "0"}, {"size": [10, 12], "counts": [120]},
)  # fmt: skip
TEXTS = (
    b"../secret.png",
    b"link.png",
    b"-1",
    b"1e999",
    b"NaN",
    b"null",
    b'"',
    b",",
    b"\n",
    b"\0",
    b"\xff",
    b"[",
    b"{}",
    b"9" * 40,
)


class Payload:
    """Pickled: makes the folder `mark` when it is loaded by pickle itself."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (self.mark,)


def base_set() -> list[PairImage]:
    first = image("7", (thing(1, "a dog", "left"), thing(2, "a cat", object_id=1, seg_id=1, mask=thing().mask)))
    second = image("a__b", (thing(3, '🎈, "red"'),), name="a/b.png", split="val")
    return [first, second]


CHANGES: tuple[Callable[[bytes, int, int, Random], bytes], ...] = (
    lambda data, at, end, random: data[:at] + random.randbytes(end - at) + data[end:],
    lambda data, at, end, random: (
        data[:at] + bytes(byte ^ 1 << random.randrange(8) for byte in data[at : at + 1]) + data[at + 1 :]
    ),
    lambda data, at, end, random: data[:at] + data[end:],
    lambda data, at, end, random: data[:end] + data[at:],
    lambda data, at, end, random: data[:at] + random.choice(TEXTS) + data[at:],
    lambda data, at, end, random: data[:at] + random.choice((b"\0", b"\xff")) * (end - at) + data[end:],
    lambda data, at, end, random: data[:at] if random.random() < 0.3 else data,
)
"""What may happen to the bytes from `at` to `end`."""


def damaged_bytes(data: bytes, random: Random) -> bytes:
    """A few places of a file overwritten, cut out, doubled or filled with what may mean something."""
    for _ in range(random.choice((1, 1, 1, 2, 5))):
        at = random.randrange(len(data) + 1)
        data = random.choice(CHANGES)(data, at, at + random.choice((1, 1, 2, 4, 8, 40)), random)
    return data


def damaged_content(content: object, random: Random) -> object:
    """One to three values of nested lists and dicts replaced, left out or doubled."""
    content = copy.deepcopy(content)
    for _ in range(random.choice((1, 1, 2, 3))):
        holder = content
        while isinstance(holder, list | dict) and holder:
            key = random.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
            inner = holder[key]
            if not (isinstance(inner, list | dict) and inner) or random.random() < 0.15:
                break
            holder = inner
        else:
            return copy.deepcopy(random.choice(HOSTILE))
        if random.random() < 0.1:
            del holder[key]
        elif isinstance(holder, list) and random.random() < 0.1:
            holder.append(holder[key])
        else:
            holder[key] = copy.deepcopy(random.choice(HOSTILE))
    return content


def damage_json(path: Path, random: Random) -> None:
    data = path.read_bytes()
    if random.random() < 0.7:
        path.write_text(json.dumps(damaged_content(json.loads(data), random)))
    else:
        path.write_bytes(damaged_bytes(data, random))


def damage_image(path: Path, random: Random) -> None:
    path.write_bytes(damaged_bytes(path.read_bytes(), random))


def damage_pickle(path: Path, random: Random) -> None:
    content = pickle.loads(path.read_bytes())
    if random.random() < 0.4:
        content = damaged_content(content, random)
    if random.random() < 0.1 and isinstance(content, list):
        content.insert(random.randrange(len(content) + 1), Payload(MARK))
    data = pickle.dumps(content, random.randrange(6))
    path.write_bytes(damaged_bytes(data, random) if random.random() < 0.5 else data)


def damage_table(path: Path, random: Random) -> None:
    """Cells of the CSV, or its bytes."""
    if random.random() < 0.4:
        path.write_bytes(damaged_bytes(path.read_bytes(), random))
        return
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    cells = random.choice(rows[1:] if random.random() < 0.9 else rows)
    at = random.randrange(len(cells))
    value = random.choice(HOSTILE)
    if cells[at].startswith("[") and random.random() < 0.7:
        cells[at] = json.dumps(damaged_content(json.loads(cells[at]), random))
    else:
        cells[at] = value if isinstance(value, str) else json.dumps(value)
    with path.open("w", newline="", encoding="utf-8", errors="surrogatepass") as file:
        csv.writer(file).writerows(rows)


def damage_parquet(path: Path, random: Random) -> None:
    if random.random() < 0.6:
        path.write_bytes(damaged_bytes(path.read_bytes(), random))
        return
    table = pq.read_table(path)
    rows = damaged_content(table.to_pylist(), random)
    try:
        pq.write_table(pa.Table.from_pylist(rows, table.schema), path)
    except Exception:  # no Parquet file can hold these rows
        path.write_bytes(damaged_bytes(path.read_bytes(), random))


def damage_shard(path: Path, random: Random) -> None:
    if random.random() < 0.5:
        path.write_bytes(damaged_bytes(path.read_bytes(), random))
        return
    with tarfile.open(path) as archive:
        members = [[member, archive.extractfile(member).read()] for member in archive]
    chosen = random.choice(members)
    member = chosen[0]
    change = random.randrange(4)
    if change == 0:
        member.name = random.choice(
            ("../secret.png", "/tmp/x.png", "a/b.png", "000000000.json", "x", "x.PNG", "\udcff.png", "é.png")
        )
    elif change == 1:
        member.type = random.choice((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE))
        member.linkname = "../secret.png"
    elif member.name.endswith(".json"):
        chosen[1] = json.dumps(damaged_content(json.loads(chosen[1]), random)).encode()
    else:
        random.shuffle(members)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for member, data in members:
            member.size = len(data) if member.isreg() else 0
            archive.addfile(member, io.BytesIO(data))


def damage_lmdb(path: Path, random: Random) -> None:
    """Bytes of the file, or a record of it, through pickle or the old Arrow layout."""
    if random.random() < 0.5:
        path.write_bytes(damaged_bytes(path.read_bytes(), random))
        return
    with (
        lmdb.open(str(path), subdir=False, lock=False, map_size=1 << 22) as environment,
        environment.begin(write=True) as change,
    ):
        key, value = random.choice(list(change.cursor()))
        if value[:1] == b"\x80" and random.random() < 0.6:
            content = damaged_content(pickle.loads(value), random)
            if random.random() < 0.2:
                content = [content, Payload(MARK)]
            value = pickle.dumps(content, 5)
        else:
            value = damaged_bytes(value, random)
        change.put(key, value)


def write_csv(folder: Path) -> None:
    """A pairs CSV of the base set with its masks."""
    header = ["index", "img_name", "img_id", "seg_id", "num_sent", "pseudo_caption", "doc", "one_mask"]
    rows = []
    for each in base_set():
        for one in each.objects:
            texts = list(one.sentences)
            docs = [1.5] * len(texts)
            rows.append([len(rows), each.name, each.image_id, one.ref_id, len(texts), json.dumps(texts), json.dumps(docs), 0])
            target = folder / "masks" / each.image_id / f"{one.ref_id}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(encode_mask(one.mask.decode()))
    with (folder / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def files_of(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.rglob(pattern) if path.is_file())


def read_set(name: str) -> Callable[[Path], Iterable[PairImage]]:
    return lambda folder: FORMATS[name].read(folder / "out", folder / "images")


KINDS: dict[str, tuple[str, str, Callable[[Path, Random], None]]] = {
    "json": ("refer grefcoco coco etris", "*.json", damage_json),
    "pickle": ("refer", "*.p", damage_pickle),
    "csv": ("csv", "*.csv", damage_table),
    "parquet": ("parquet", "out", damage_parquet),
    "tar": ("webdataset", "*.tar", damage_shard),
    "mask": ("csv etris", "masks/**/*.png", damage_image),
    "lmdb": ("lmdb lmdb-pickle", "*.lmdb", damage_lmdb),
}
"""Formats that a kind of file is found in, and how such files are damaged."""


def prepare(name: str, folder: Path) -> Callable[[Path], Iterable[PairImage]]:
    """Writes the base set; in the folder of images are also links that lead out."""
    (folder / "images" / "a").mkdir(parents=True)
    for each in base_set():
        (folder / "images" / each.name).write_bytes(each.read())
    (folder.parent / "secret.png").write_bytes(SECRET)
    (folder / "images" / "link.png").symlink_to(folder.parent / "secret.png")
    (folder / "images" / "folder").symlink_to(folder.parent)
    (folder / "images" / "loop.png").symlink_to("loop.png")
    if name == "csv":
        write_csv(folder)
        for scoring in (None, ScoringConfig()):
            assert list(read_csv(folder / "pairs.csv", folder / "images", folder / "masks", scoring))
        return lambda at: read_csv(at / "pairs.csv", at / "images", at / "masks", None)
    FORMATS[name].write(folder / "out", base_set(), Writing())
    assert list(read_set(name)(folder)) == base_set()
    return read_set(name)


HARM = ("os.system", "subprocess.Popen", "os.exec", "os.mkdir", "os.remove", "os.rename", "pickle.find_class")


class Watch:
    """Notes what Python opens or runs while it looks on."""

    def __init__(self) -> None:
        self.folder = ""
        self.on = False
        self.seen: list[str] = []
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple) -> None:
        if self.on and event in HARM:
            self.seen.append(f"{event} {arguments}")
        if self.on and event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            place = os.path.realpath(os.fsdecode(arguments[0]))
            if not place.startswith((self.folder + os.sep, sys.prefix, sys.base_prefix)):
                self.seen.append(f"{event} {place}")


def outcome(read: Callable[[Path], Iterable[PairImage]], case: Path, watch: Watch) -> bool:
    """Whether the set was read."""
    try:
        watch.on = True
        images = list(read(case))
        given = [each.read() for each in images]
        for each in images:
            assert all(one.mask.decode().shape == (each.height, each.width) for one in each.objects)
        watch.on = False
        assert SECRET not in given
        FORMATS["coco"].write(case / "again", images, Writing("x", copy_images=True))
    except (UserError, BadInputError) as error:
        assert "\n" not in str(error), repr(str(error))
        return False
    finally:
        watch.on = False
    return True


def main(kind: str, seed: int, count: int, folder: Path, watch: Watch) -> None:
    names, pattern, damage = KINDS[kind]
    random = Random(seed)
    readers = {name: prepare(name, folder / name) for name in names.split()}
    results = {True: 0, False: 0}
    for number in range(count):
        name = random.choice(list(readers))
        target = random.choice(files_of(folder / name, pattern))
        whole = target.read_bytes()
        watch.folder = os.path.realpath(folder / name)
        damage(target, random)
        before = files_of(folder, "*")
        try:
            results[outcome(readers[name], folder / name, watch)] += 1
            assert not watch.seen, watch.seen
            shutil.rmtree(folder / name / "again", ignore_errors=True)
            assert files_of(folder, "*") == before, "something was written beside the set"
            assert not Path(MARK).exists(), "code in the input was run"
        except BaseException:
            print(f"{kind} {name}, seed {seed}, input {number}", file=sys.stderr)
            raise
        target.write_bytes(whole)
    print(f"{kind}: {results[True]} read, {results[False]} refused")


if __name__ == "__main__":
    root = Path(sys.argv[2])
    watch = Watch()
    for task in sys.argv[3:]:
        kind, count = task.split("=")
        main(kind, int(sys.argv[1]), int(count), root / kind, watch)
