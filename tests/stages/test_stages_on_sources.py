"""Both stages on every source of images, and stage 2 on the masks of annotations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from listed_images import (
    DEMO,
    IDS,
    NAME,
    SOURCES,
    coco_name,
    lmdb_record,
    make_place,
    settings,
    write_lmdb,
)

from generate_masks.cutler_sam_masks import main as generate_masks
from generate_pseudo_supervision.distinctive_caption_generation import main as generate_captions
from pseudo_ris.pairs.assembly import read_pairs
from pseudo_ris.runtime.runs import EXIT_FAILURES, read_failures


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return make_place(tmp_path_factory.mktemp("sources"))


FEWER_MASKS = ("--sam.points_per_side", "6")
FEWER_TOKENS = ("--decoding.top_k", "[5]", "--decoding.top_p", "[]")


def run_stages(source: dict[str, str], out: Path, *options: str) -> list[int]:
    """Exit codes of both stages on a source."""
    given = [argument for name, value in source.items() for argument in (f"--{name}", value)]
    common = [*given, "--masks", str(out / "masks"), *options]
    return [
        generate_masks([*common, *FEWER_MASKS]),
        generate_captions([*common, "--output", str(out / "pairs"), *FEWER_TOKENS]),
    ]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def from_folder(place, tmp_path_factory) -> dict[str, bytes]:
    """All that both stages make of the images in the folder."""
    out = tmp_path_factory.mktemp("from_folder")
    assert run_stages(settings(place)["folder"], out) == [0, 0]
    assert {row["img_id"] for row in read_pairs(out / "pairs" / f"{NAME}.csv")} == {str(number) for number in IDS}
    return contents(out)


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES[1:])
def test_every_source_gives_the_same_bytes(place, from_folder, tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    assert run_stages(settings(place)[source], out) == [0, 0]
    assert contents(out) == from_folder


@pytest.mark.slow
def test_shards_of_an_lmdb_give_the_same_bytes(place, from_folder, tmp_path, capsys):
    source = {"lmdb": str(place / "file.lmdb")}
    given = ["--lmdb", source["lmdb"], "--masks", str(tmp_path / "masks")]
    for shard in ("0/2", "1/2"):
        assert generate_masks([*given, *FEWER_MASKS, "--shard", shard]) == 0
    assert generate_masks([*given, *FEWER_MASKS]) == 0
    for shard in ("1/2", "0/2"):
        assert generate_captions([*given, "--output", str(tmp_path / "pairs"), *FEWER_TOKENS, "--shard", shard]) == 0
    assert run_stages(source, tmp_path) == [0, 0]
    assert capsys.readouterr().out.count("3 images: 0 made, 3 reused, 0 failed") == 3
    assert contents(tmp_path) == from_folder


@pytest.mark.slow
def test_bad_images_of_an_lmdb_are_recorded_and_redone_once_mended(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second, third = (place / "images" / coco_name(number) for number in IDS)
    bad = lmdb_record(second, img=b"no image", img_id=11)
    reserved = lmdb_record(third, image_id="failures.csv")
    write_lmdb(Path("x.lmdb"), [lmdb_record(first, img_id=30), bad, reserved])
    assert run_stages({"lmdb": "x.lmdb"}, Path("out")) == [EXIT_FAILURES, EXIT_FAILURES]
    for stage in ("masks", "pairs"):
        failed = {each.image: each.reason for each in read_failures(Path("out", stage, "failures.csv"))}
        assert failed.keys() == {second.name, third.name}
        assert failed[third.name].startswith(f"{third.name}: image id failures.csv is a name that the outputs use")
    assert {row["img_id"] for row in read_pairs(Path("out", "pairs", f"{NAME}.csv"))} == {"30"}
    Path("x.lmdb").unlink()
    write_lmdb(Path("x.lmdb"), [lmdb_record(path, img_id=number) for path, number in ((first, 30), (second, 11), (third, 7))])
    assert run_stages({"lmdb": "x.lmdb"}, Path("out"), "--retry-failed") == [0, 0]
    assert {row["img_id"] for row in read_pairs(Path("out", "pairs", f"{NAME}.csv"))} == {"30", "11", "7"}


@pytest.mark.slow
def test_stage_2_on_the_annotations_of_a_coco_file_has_their_ids(tmp_path, capsys):
    instances = str(DEMO / "instances.json")
    arguments = ["--images", str(DEMO / "images"), "--coco", instances, "--masks", instances, "--mask_format", "coco"]
    arguments += ["--output", str(tmp_path / "pairs"), *FEWER_TOKENS]
    assert generate_captions(arguments) == 0
    rows = read_pairs(tmp_path / "pairs" / f"{NAME}.csv")
    content = json.loads((DEMO / "instances.json").read_text())
    annotated = [(str(each["image_id"]), each["id"]) for each in content["annotations"]]
    assert [(row["img_id"], row["seg_id"]) for row in rows] == annotated
    names = {str(image["id"]): image["file_name"] for image in content["images"]}
    assert {row["img_id"]: row["img_name"] for row in rows} == names
    before = contents(tmp_path)
    assert generate_captions(arguments) == 0
    assert "24 images: 0 made, 24 reused" in capsys.readouterr().out
    assert contents(tmp_path) == before


@pytest.mark.slow
def test_stage_2_on_a_refer_set_takes_what_the_refs_of_the_split_name(place, tmp_path):
    refs = str(place / "refs(unc).p")
    arguments = ["--images", str(place / "images"), "--refer", refs, "--masks", refs, "--mask_format", "refer"]
    assert generate_captions([*arguments, "--output", str(tmp_path / "pairs"), *FEWER_TOKENS]) == 0
    rows = read_pairs(tmp_path / "pairs" / f"{NAME}.csv")
    annotations = json.loads((place / "instances.json").read_text())["annotations"]
    assert [(row["img_id"], row["seg_id"]) for row in rows] == [
        (str(each["image_id"]), each["id"]) for each in annotations[::2]
    ]
