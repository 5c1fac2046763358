"""WebDataset shards."""

from __future__ import annotations

import io
import json
import tarfile

import pytest
from random_sets import Bytes, image, png, thing

from pseudo_ris.errors import UserError
from pseudo_ris.formats import webdataset as shards_wds
from pseudo_ris.formats.webdataset import read_webdataset, write_webdataset


def test_webdataset_reads_the_shards(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    images = [image("7", (thing(1, "a dog", "🎈"),)), image("8", name="a/b.JPEG", split="val"), image("9", name="no suffix")]
    write_webdataset(tmp_path / "out", images, "some")
    (shard,) = (tmp_path / "out").iterdir()
    samples = list(webdataset.WebDataset(str(shard), shardshuffle=False))
    assert shard.name == "some-000000.tar"
    assert [sample["__key__"] for sample in samples] == ["000000000", "000000001", "000000002"]
    assert samples[0]["png"] == samples[1]["jpeg"] == samples[2]["image"] == png(10, 12)
    content = json.loads(samples[0]["json"])
    assert (content["file_name"], content["split"], content["samples"][0]["sentences"]) == ("7.png", "train", ["a dog", "🎈"])


def test_shards_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(shards_wds, "SHARD_BYTES", 3000)
    monkeypatch.setattr(shards_wds, "SHARD_IMAGES", 4)
    sizes = [10] * 6 + [1400] * 3 + [9000] + [10]
    images = [image(str(number), read=Bytes(bytes([number]) * size)) for number, size in enumerate(sizes)]
    write_webdataset(tmp_path / "out", iter(images), "x")
    shards = sorted((tmp_path / "out").iterdir())
    counts = [len(list(read_webdataset(shard))) for shard in shards]
    assert counts == [4, 4, 1, 1, 1]
    assert [each.read() for each in read_webdataset(tmp_path / "out")] == [each.read() for each in images]
    assert [each.image_id for each in read_webdataset(shards[1])] == ["4", "5", "6", "7"]


def entry(name: str, data: bytes = b"", **changes) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for field, value in changes.items():
        setattr(member, field, value)
    return member, data


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([entry("../0.png", b"x")], r"member '../0.png': is not a complete regular file"),
        ([entry("/0.png", b"x")], "is not a complete regular file"),
        ([entry("a/0.png", b"x")], "is not a complete regular file"),
        ([entry("0", b"x")], "is not a complete regular file"),
        ([entry("0.png", type=tarfile.SYMTYPE, linkname="/etc/hostname")], "is not a complete regular file"),
        ([entry("0.png", type=tarfile.LNKTYPE, linkname="1.png")], "is not a complete regular file"),
        ([entry("0.png", type=tarfile.DIRTYPE)], "is not a complete regular file"),
        ([entry("0.png", type=tarfile.FIFOTYPE)], "is not a complete regular file"),
        ([entry("0.png", b"x")], "member '0.png': has no .json"),
        ([entry("0.json", b"{}")], "member '0.json': no image with this key"),
        ([entry("0.png", b"x"), entry("1.json", b"{}")], "member '1.json': no image with this key"),
        ([entry("0.png", b"x"), entry("1.png", b"x")], "member '1.png': .*image before it has no .json"),
        ([entry("0.png", b"x"), entry("0.json", b"{")], "member '0.json': not JSON"),
        ([entry("0.png", b"x"), entry("0.json", b"[]")], "member '0.json': is not a JSON object"),
        ([entry("0.png", b"x"), entry("0.json", b"{}")], "member '0.json': image_id is missing"),
    ],
)
def test_members_that_do_not_fit_are_named(tmp_path, members, message):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for member, data in members:
            archive.addfile(member, io.BytesIO(data))
    with pytest.raises(UserError, match=message) as caught:
        list(read_webdataset(tmp_path))
    assert "x.tar" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_archive_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"contains no \.tar"):
        list(read_webdataset(tmp_path))
    write_webdataset(tmp_path / "out", [image()], "x")
    whole = (tmp_path / "out" / "x-000000.tar").read_bytes()
    for number, data in enumerate((b"", b"x" * 2000, whole[:700], whole[:100])):
        (tmp_path / f"{number}.tar").write_bytes(data)
        with pytest.raises(UserError, match=rf"{number}.tar"):
            list(read_webdataset(tmp_path / f"{number}.tar"))
    with pytest.raises(UserError, match="No such file"):
        list(read_webdataset(tmp_path / "none.tar"))
