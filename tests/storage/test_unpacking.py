"""From shards back to files, and readers that need files."""

import dataclasses

import pytest
from small_stages import Masks, Parts, contents, draw_images, run_stage

from pseudo_ris.cli.unshard import main
from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.pairs.selection import area_shares
from pseudo_ris.storage.compaction.rows import read_rows, write_shard
from pseudo_ris.storage.unsharding import loosen


@pytest.fixture
def images(tmp_path):
    return draw_images(tmp_path / "images", ["a", "b", "c", "d", "e"])


@pytest.mark.parametrize("kind", [Parts, Masks])
def test_files_are_those_of_a_run_without_shards(kind, images, tmp_path):
    stage, plain = kind(tmp_path / "out"), kind(tmp_path / "plain")
    run_stage(stage, images, 2)
    (images / "b.jpg").write_bytes(b"another picture")
    run_stage(stage, images, 0)
    option = "--masks" if kind is Masks else "--output"
    assert main([option, str(stage.folder), *(["--name", "pairs"] if kind is Parts else [])]) == 0
    run_stage(plain, images, 0)
    assert contents(stage.folder) == contents(plain.folder)
    assert loosen(stage.store) == 0


def test_what_reads_pngs_itself_names_the_remedy(images, tmp_path):
    run_stage(stage := Masks(tmp_path / "masks"), images, 2)
    with pytest.raises(UserError, match=r"in shards; `pseudo-ris unshard --masks .*masks` makes files"):
        area_shares(stage.folder, ["a"], [0])


def test_rows_from_elsewhere_write_nothing_outside(images, tmp_path):
    run_stage(stage := Masks(tmp_path / "masks"), images, 5)
    path = stage.store.archive.folder / "000000.parquet"
    row = next(row for row in read_rows(path) if row.files)
    write_shard(path, [dataclasses.replace(row, image_id="../a")])
    with pytest.raises(UserError, match="no name of a folder"):
        loosen(stage.store)
    write_shard(path, [dataclasses.replace(row, files=(("../0.png", b""),))])
    with pytest.raises(UserError, match="not named by numbers"):
        loosen(stage.store)
    with pytest.raises(BadInputError, match="not named by numbers"):
        Masks(stage.folder).results(run_stage(stage, images, 0, bad="abcde").records)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"pairs.parts: no such folder"):
        main(["--output", str(tmp_path), "--name", "pairs"])
