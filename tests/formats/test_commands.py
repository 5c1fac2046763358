"""export and convert as commands."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
from random_sets import image, thing

from pseudo_ris.cli.main import main
from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.formats.registry import FORMATS, Format, Writing, compare, write_verified
from pseudo_ris.formats.unpack import unpack
from pseudo_ris.world.coco_writer import load_coco_scenes

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "datasets" / "demo"


@pytest.fixture
def stage_2(tmp_path) -> list[str]:
    """Options for three demo scenes with true masks and made-up expressions, in the test's own folder."""
    return write_stage_2(tmp_path)


@pytest.fixture(scope="module")
def lasting_stage_2(tmp_path_factory) -> list[str]:
    """The same of one scene, for tests that only read it."""
    return write_stage_2(tmp_path_factory.mktemp("stage_2"), 1)


def write_stage_2(folder: Path, scenes: int = 3) -> list[str]:
    rows = ["index,img_name,img_id,seg_id,num_sent,pseudo_caption,doc,one_mask"]
    for name, scene in load_coco_scenes(DEMO)[:scenes]:
        image_id = name.removesuffix(".png")
        (folder / "masks" / image_id).mkdir(parents=True)
        for seg_id, mask in enumerate(scene.masks):
            cv2.imwrite(str(folder / "masks" / image_id / f"{seg_id}.png"), mask.astype("uint8") * 255)
            rows.append(f'{len(rows) - 1},{name},{image_id},{seg_id},2,"[""good {seg_id}"", ""bad""]","[1.5, 0.5]",0')
    (folder / "pairs.csv").write_text("\n".join(rows) + "\n")
    return [f"--{name}={place}" for name, place in (
        ("pairs", folder / "pairs.csv"), ("images", DEMO / "images"), ("masks", folder / "masks")
    )]  # fmt: skip


def counted(stage_2: list[str]) -> int:
    return len(Path(stage_2[0].split("=")[1]).read_text().splitlines()) - 1


@pytest.mark.parametrize("name", FORMATS)
def test_an_export_is_what_the_csv_says(tmp_path, stage_2, capsys, name):
    assert main(["export", "--to", name, str(tmp_path / "out"), *stage_2]) == 0
    objects = counted(stage_2)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"3 images, {objects} objects, {objects} sentences, written to {tmp_path / 'out'} as {name}")
    images = list(FORMATS[name].read(tmp_path / "out", DEMO / "images"))
    for each, (file_name, scene) in zip(images, load_coco_scenes(DEMO)[:3], strict=True):
        assert each.name == file_name
        assert [(one.mask.decode() == mask).all() for one, mask in zip(each.objects, scene.masks, strict=True)]
        assert [one.sentences for one in each.objects] == [(f"good {seg_id}",) for seg_id in range(len(scene.masks))]
        assert each.read() == (DEMO / "images" / file_name).read_bytes()


def test_all_candidates_and_splits_on_request(tmp_path, stage_2, capsys):
    assert main(["export", "--to", "coco", str(tmp_path / "all"), "--all", "--val-share", "0.5", "--seed", "3", *stage_2]) == 0
    assert f"{2 * counted(stage_2)} sentences" in capsys.readouterr().out
    content = json.loads((tmp_path / "all" / "pairs.json").read_text())
    assert {entry["split"] for entry in content["images"]} == {"train", "val"}


def test_converting_there_and_back_changes_nothing(tmp_path, stage_2):
    main(["export", "--to", "coco", str(tmp_path / "a"), "--copy-images", *stage_2])
    main(["convert", "--from", "coco", str(tmp_path / "a"), "--to", "parquet", str(tmp_path / "b")])
    main(["convert", "--from", "parquet", str(tmp_path / "b"), "--to", "refer", str(tmp_path / "c"), "--dataset", "refcoco+"])
    images = str(DEMO / "images")
    main(
        [
            "convert",
            "--from",
            "refer",
            str(tmp_path / "c"),
            "--images",
            images,
            "--to",
            "coco",
            str(tmp_path / "d"),
            "--copy-images",
        ]
    )
    first, last = (tmp_path / name for name in "ad")
    assert (first / "pairs.json").read_bytes() == (last / "pairs.json").read_bytes()
    assert sorted(path.name for path in (first / "images").iterdir()) == sorted(
        path.name for path in (last / "images").iterdir()
    )


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_there_is_left_alone(tmp_path, name):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match="out: already exists"):
        FORMATS[name].write(tmp_path / "out", [image()], Writing())
    with pytest.raises(UserError, match="out: already exists"):
        main(["convert", "--from", name, str(tmp_path), "--to", name, str(tmp_path / "out")])
    assert (tmp_path / "out").read_text() == "mine"


def all_files(folder: Path) -> dict[Path, tuple[int, bytes]]:
    paths = [folder] if folder.is_file() else sorted(path for path in folder.rglob("*") if path.is_file())
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


@pytest.mark.parametrize("name", FORMATS)
def test_a_set_that_is_done_is_found_to_be_done(tmp_path, lasting_stage_2, capsys, name):
    """As by the same command after a kill at its very end."""
    out = tmp_path / "out"
    command = ["export", "--to", name, str(out), *lasting_stage_2]
    assert main(command) == 0
    before = all_files(out)
    assert main(command) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert second == first.replace("written to", "already in")
    assert all_files(out) == before
    with pytest.raises(UserError, match=f"{out}: already exists and is not this set .*; choose another path") as caught:
        main([*command, "--all"])
    assert "write it again" not in str(caught.value)
    largest = max(before, key=lambda path: len(before[path][1]))
    with largest.open("rb+") as file:
        file.truncate(len(before[largest][1]) // 2)
    with pytest.raises(UserError, match=f"{out}: already exists and is not this set .*; choose another path"):
        main(command)


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (["lmdb"], ["lmdb-pickle"]),
        (["lmdb-pickle"], ["lmdb"]),
        *((["--dataset=a", name], ["--dataset=b", name]) for name in ("refer", "grefcoco", "etris", "webdataset")),
        (["coco"], ["coco", "--copy-images"]),
    ],
)
def test_a_set_of_another_form_is_not_taken_for_the_one_that_is_wanted(tmp_path, lasting_stage_2, first, then):
    out = str(tmp_path / "out")
    assert main(["export", "--to", first[-1], *first[:-1], out, *lasting_stage_2]) == 0
    options = [word for word in then if word.startswith("--")]
    kind = next(word for word in then if not word.startswith("--"))
    with pytest.raises(UserError, match="out: already exists"):
        main(["export", "--to", kind, *options, out, *lasting_stage_2])


@pytest.mark.parametrize("name", ["coco", "parquet"])
def test_a_set_is_at_its_place_only_when_it_was_found_equal(tmp_path, lasting_stage_2, monkeypatch, name):
    seen = []

    def killed(*arguments, **options):
        seen.append((tmp_path / "out").exists())
        raise KeyboardInterrupt

    monkeypatch.setattr("pseudo_ris.formats.registry.compare", killed)
    with pytest.raises(KeyboardInterrupt):
        main(["export", "--to", name, str(tmp_path / "out"), *lasting_stage_2])
    assert seen == [False]
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*"))


def test_errors_name_the_place_that_was_asked_for(tmp_path, monkeypatch):
    def refused(out: Path, images, how) -> None:
        raise UserError(f"cannot write {out}: No space left on device")

    monkeypatch.setattr("pseudo_ris.formats.registry.FORMATS", {"coco": Format(FORMATS["coco"].read, refused)})
    with pytest.raises(UserError, match=f"^cannot write {tmp_path / 'out'}: No space left on device$"):
        write_verified(tmp_path / "out", lambda: [image()], "coco", Writing())


@pytest.mark.parametrize("name", FORMATS)
def test_a_write_that_fails_leaves_nothing(tmp_path, name):
    def unreadable() -> bytes:
        raise BadInputError("7.png: is gone")

    images = [image("7", (thing(1, "a"),)), image("8", (thing(2, "b"),), read=unreadable)]
    with pytest.raises(UserError, match="is gone"):
        FORMATS[name].write(tmp_path / "out", images, Writing(copy_images=True))
    assert not list(tmp_path.iterdir())


def test_errors_are_one_line_and_exit_code_2(tmp_path):
    command = [sys.executable, "-m", "pseudo_ris.cli", "export", "--to", "coco", "out"]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: --images datasets/demo/images: no such folder")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([], "image '7', split train: is missing"),
        ([image("7", (thing(1, "a", "b"),)), image("8")], "image '8', split train: was not in the input"),
        ([image("7", (thing(1, "a", "b"),), width=13)], "image '7', split train: width differs"),
        ([image("7")], "image '7', split train: objects differs"),
        ([image("7", (thing(1, "a", "B"),))], "image '7', split train: sentences of ref 1 differs"),
        ([image("7", (thing(1, "a", "b", category_id=2),))], "category_id of ref 1 differs"),
        ([image("7", (thing(1, "a", "b"),), read=lambda: b"")], "its bytes differ"),
    ],
)
def test_the_first_difference_is_named(found, message):
    wanted = [image("7", (thing(1, "a", "b"),))]
    totals = compare(wanted, wanted, "out", with_bytes=True)
    assert (totals.images, totals.objects, totals.sentences) == (1, 1, 2)
    with pytest.raises(UserError, match=message):
        compare(wanted, found, "out", with_bytes=True)


def test_a_writer_that_loses_something_is_found_out(tmp_path, monkeypatch):
    lossy = FORMATS["coco"].write
    kept = {"coco": FORMATS["coco"].__class__(FORMATS["coco"].read, lambda out, images, how: lossy(out, list(images)[:1], how))}
    monkeypatch.setattr("pseudo_ris.formats.registry.FORMATS", kept)
    with pytest.raises(UserError, match="image '8', split train: is missing"):
        write_verified(tmp_path / "out", lambda: [image("7"), image("8")], "coco", Writing())


@pytest.mark.parametrize("name", ["lmdb", "coco"])
def test_unpack_gives_the_folders_that_pairs_were_made_of(stage_2, tmp_path, name, capsys):
    assert main(["export", "--to", name, str(tmp_path / "set"), "--copy-images", *stage_2]) == 0
    assert main(["unpack", "--from", name, str(tmp_path / "set"), str(tmp_path / "out")]) == 0
    assert "3 images" in capsys.readouterr().out.splitlines()[-1]
    made = {path.relative_to(tmp_path / "masks") for path in (tmp_path / "masks").rglob("*.png")}
    found = {path.relative_to(tmp_path / "out" / "masks") for path in (tmp_path / "out" / "masks").rglob("*.png")}
    assert found == made
    for path in found:
        both = [
            cv2.imread(str(folder / path), cv2.IMREAD_GRAYSCALE) for folder in (tmp_path / "masks", tmp_path / "out" / "masks")
        ]
        assert (both[0] == both[1]).all()
    for path in (tmp_path / "out" / "images").iterdir():
        assert path.read_bytes() == (DEMO / "images" / path.name).read_bytes()


def test_unpack_refuses_ids_that_lead_elsewhere(tmp_path):
    odd = dataclasses.replace(image("a", [thing(0)]), image_id="..")
    with pytest.raises(UserError, match="image_id is not a valid folder name"):
        unpack([odd], tmp_path / "out")
    assert not (tmp_path / "out").exists()
