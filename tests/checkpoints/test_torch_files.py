"""Archives that unpack to far more than their size are refused before anything of them is read."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from pseudo_ris.checkpoints.torch_files import load_torch_file
from pseudo_ris.checkpoints.weights import load_weights
from pseudo_ris.errors import UserError
from pseudo_ris.ris.models.checkpoints import load_model

UNPACKED = 32 << 20


def saved(**content: torch.Tensor) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def with_entry(path: Path, ending: str, compression: int, size: int = UNPACKED) -> Path:
    """A torch file whose entry of that name is `size` zeros."""
    with zipfile.ZipFile(io.BytesIO(saved(weight=torch.zeros(3)))) as source, zipfile.ZipFile(path, "w") as target:
        for entry in source.infolist():
            large = entry.filename.endswith(ending)
            content = bytes(size) if large else source.read(entry)
            target.writestr(entry.filename, content, compression if large else zipfile.ZIP_STORED, 1)
    return path


def peak_of(read) -> int:
    """Most memory in use while `read` is refused, bytes more than before. Of this process, as Linux counts it."""
    Path("/proc/self/clear_refs").write_text("5")
    before = peak()
    with pytest.raises(UserError) as caught:
        read()
    assert "\n" not in str(caught.value)
    return peak() - before


def peak() -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) << 10


READERS = {
    "a stage": lambda path: load_weights(nn.Linear(2, 2), path, "small"),
    "evaluation": lambda path: load_model(path, torch.device("cpu")),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("ending", ["/data.pkl", "/data/0"])
def test_a_compressed_entry_is_not_unpacked(tmp_path, reader, ending):
    path = with_entry(tmp_path / "bomb.pt", ending, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < UNPACKED / 100
    with pytest.raises(UserError, match=f"bomb.pt: not a readable checkpoint .*{ending} is compressed"):
        READERS[reader](path)
    assert peak_of(lambda: READERS[reader](path)) < UNPACKED / 4


def test_evaluation_does_not_read_the_optimizer(tmp_path):
    content = {"format": 1, "config": {}, "step": 1, "model": {}, "optimizer": torch.ones(UNPACKED // 4)}
    torch.save(content, tmp_path / "last.pt")
    assert peak_of(lambda: READERS["evaluation"](tmp_path / "last.pt")) < UNPACKED / 4


def overlapping(path: Path) -> Path:
    """A torch file whose directory names one large entry many times over."""
    content = with_entry(path, "/data/0", zipfile.ZIP_STORED, 1 << 14).read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        start, names = archive.start_dir, len(archive.infolist())
    end = content.rindex(b"PK\5\6")
    directory = content[start:end]
    record = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 2 * names, 2 * names, 2 * len(directory), start, 0)
    path.write_bytes(content[:start] + 2 * directory + record)
    return path


def test_entries_that_share_their_bytes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="larger than the file"):
        load_torch_file(overlapping(tmp_path / "bomb.pt"))


def test_a_file_of_two_archives_is_refused(tmp_path):
    """zipfile reads the directory where it lies, torch where the file says: each could see another one."""
    path = tmp_path / "two.pt"
    path.write_bytes(saved(weight=torch.zeros(1)) + saved(weight=torch.ones(1)))
    with pytest.raises(ValueError, match="does not begin with its first entry"):
        load_torch_file(path)


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("as_archive", [False, True])
def test_files_of_old_and_new_torch_are_read(tmp_path, mmap, as_archive):
    weight = torch.arange(6.0).view(2, 3)
    torch.save({"weight": weight}, tmp_path / "w.pt", _use_new_zipfile_serialization=as_archive)
    assert torch.equal(load_torch_file(tmp_path / "w.pt", mmap)["weight"], weight)
