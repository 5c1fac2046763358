"""Finished images in shards: the same results as in files of their own, whatever order, deaths and restarts."""

import os
import random

import pytest
from small_stages import Masks, Parts, contents, copy_of, draw_images, run_stage

from pseudo_ris.config import CaptionGenerationConfig, MaskGenerationConfig
from pseudo_ris.errors import UserError
from pseudo_ris.io.images import list_images
from pseudo_ris.runtime.shares import ALL, Shard
from pseudo_ris.stages.settings import parse_config
from pseudo_ris.storage.compaction.archive import count_rows
from pseudo_ris.storage.compaction.compactor import compacting

NAMES = ["a", "b", "c", "d", "e", "f", "g"]
STAGES = pytest.mark.parametrize("kind", [Parts, Masks])


@pytest.fixture
def images(tmp_path):
    return draw_images(tmp_path / "images", NAMES)


def shards(stage):
    return sorted(path.name for path in stage.store.archive.folder.glob("*.parquet"))


def seen_by(stage, images, size, **options):
    """Names of the images that a run looked at, and the run."""
    seen = []
    run = run_stage(stage, images, size, each=lambda record: seen.append(record.image_id), **options)
    return seen, run


def test_only_a_run_on_all_images_that_asks_for_shards_compacts(images, tmp_path):
    store = Parts(tmp_path / "out").store
    for size, shard in ((0, ALL), (3, Shard(0, 2))):
        with compacting(store, list_images(images), size, shard, pytest.fail) as keeper:
            assert keeper is None
    for stage in (MaskGenerationConfig, CaptionGenerationConfig):
        assert parse_config(stage, ["--shard-size", "1000"]).shard_size == 1000
        with pytest.raises(UserError, match="shard_size: must be 0 or more"):
            parse_config(stage, ["--shard-size", "-1"])


@STAGES
def test_results_are_those_of_files_and_the_files_are_gone(kind, images, tmp_path):
    plain, stage = kind(tmp_path / "plain"), kind(tmp_path / "shards")
    run_stage(plain, images, 0)
    run = run_stage(stage, images, 3)
    assert stage.results(run.current()) == plain.results(list_images(images)) != []
    assert shards(stage) == ["000000.parquet", "000001.parquet", "000002.parquet"]
    assert stage.count_loose() == 0
    assert count_rows(stage.store.archive.folder) == len(NAMES)


@STAGES
def test_files_are_the_same_in_every_order(kind, images, tmp_path):
    run_stage(first := kind(tmp_path / "first"), images, 3)
    for seed in range(2):
        run_stage(other := kind(tmp_path / f"order{seed}"), images, 3, seed=seed)
        assert contents(other.folder) == contents(first.folder)


@pytest.mark.parametrize(
    ("size", "counts"),
    [(1, [0] * 7), (2, [0] * 7), (3, [0, 1, 0, 0, 1, 0, 0]), (6, [0, 1, 2, 0, 1, 2, 0]), (20, [0, 1, 2, 3, 4, 5, 6])],
)
def test_files_wait_for_half_a_block_or_its_end(images, tmp_path, size, counts):
    stage = Parts(tmp_path / "parts")
    loose = []
    run_stage(stage, images, size, each=lambda record: loose.append(stage.count_loose()))
    assert loose == counts
    run_stage(whole := Parts(tmp_path / "whole"), images, size, seed=1)
    assert contents(stage.folder) == contents(whole.folder)


@STAGES
def test_half_a_block_says_nothing_of_images_that_have_not_ended(kind, images, tmp_path):
    """Stopped after half of a block was made with new settings: the old results beside them are not taken for new ones."""
    stage = kind(tmp_path / "out")
    run_stage(stage, images, 7, settings="old")

    def stop(record):
        if record.image_id == "f":
            assert kind(stage.folder).store.loose_ids() == {"e"}
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stage(stage, images, 7, settings="new", each=stop)
    seen, run = seen_by(stage, images, 7, settings="new")
    assert seen == ["e", "f", "g"] and (run.counts["made"], run.counts["reused"]) == (2, 5)
    run_stage(fresh := kind(tmp_path / "fresh"), images, 7, settings="new")
    assert contents(stage.folder) == contents(fresh.folder)


@STAGES
def test_unchanged_images_are_not_looked_at_and_changed_ones_are_made_again(kind, images, tmp_path):
    stage = kind(tmp_path / "out")
    run_stage(stage, images, 3)
    before = contents(stage.folder)
    seen, run = seen_by(stage, images, 3)
    assert seen == [] and run.counts["reused"] == len(NAMES) and len(run.current()) == len(NAMES)
    assert contents(stage.folder) == before
    (images / "d.jpg").write_bytes(b"another picture")
    os.utime(images / "e.jpg", ns=(1, 1))
    seen, run = seen_by(stage, images, 3)
    assert seen == ["d", "e"] and (run.counts["made"], run.counts["reused"]) == (1, 6)
    run_stage(fresh := kind(tmp_path / "fresh"), images, 3)
    assert contents(stage.folder) == contents(fresh.folder)


@STAGES
def test_other_settings_replace_all_rows_and_never_mix(kind, images, tmp_path):
    stage, fresh = kind(tmp_path / "out"), kind(tmp_path / "fresh")
    run_stage(stage, images, 3, settings="a")
    seen, _ = seen_by(stage, images, 3, settings="b", bad=["e"])
    assert seen == NAMES
    run = run_stage(fresh, images, 3, settings="b", bad=["e"])
    assert stage.results(run.current()) == fresh.results(run.current())
    run_stage(stage, images, 3, settings="b", retry=True)
    run_stage(fresh, images, 3, settings="b", retry=True)
    assert contents(stage.folder) == contents(fresh.folder)


@STAGES
def test_what_failed_joins_its_shard_when_it_is_made(kind, images, tmp_path):
    stage, fresh = kind(tmp_path / "out"), kind(tmp_path / "fresh")
    run = run_stage(stage, images, 3, bad=["a", "e", "g"])
    assert [record.image_id for record in run.current()] == ["b", "c", "d", "f"]
    assert shards(stage) == ["000000.parquet", "000001.parquet"]
    seen, run = seen_by(stage, images, 3, bad=["g"], retry=True)
    assert seen == ["a", "e", "g"] and run.counts["made"] == 2
    run_stage(fresh, images, 3, bad=["g"])
    assert contents(stage.folder) == contents(fresh.folder)


def test_a_lost_or_torn_index_costs_a_look_at_the_images_and_nothing_else(images, tmp_path):
    stage = Parts(tmp_path / "out")
    run_stage(stage, images, 3)
    before = contents(stage.folder)
    index = stage.store.archive.folder / "index.jsonl"
    whole = index.read_bytes()
    inodes = [path.stat().st_ino for path in sorted(stage.store.archive.folder.glob("*.parquet"))]
    rng = random.Random(0)
    for damaged in [None, b"", *(whole[: rng.randrange(len(whole))] for _ in range(5)), whole + whole[:50], b"\xff\n" + whole]:
        if damaged is None:
            index.unlink()
        else:
            index.write_bytes(damaged)
        seen, run = seen_by(stage, images, 3)
        assert run.counts["reused"] == len(NAMES) and (seen or len(damaged or b"") >= len(whole) - 1)
        assert contents(stage.folder) == before
    assert [path.stat().st_ino for path in sorted(stage.store.archive.folder.glob("*.parquet"))] == inodes, "nothing rewritten"


def test_an_index_of_other_shards_is_not_believed(images, tmp_path):
    stage = Parts(tmp_path / "out")
    run_stage(stage, images, 3)
    old = stage.store.archive.folder / "000001.parquet"
    data = old.read_bytes()
    run_stage(stage, images, 3, settings="b")
    old.write_bytes(data)
    seen, run = seen_by(stage, images, 3, settings="b")
    assert seen == ["d", "e", "f"] and run.counts["made"] == 3


@STAGES
@pytest.mark.parametrize("left", [0.0, 0.3, 0.9, 0.999])
def test_a_shard_that_was_cut_short_is_made_again(kind, images, tmp_path, left, capsys):
    stage = kind(tmp_path / "out")
    run_stage(stage, images, 3)
    before = contents(stage.folder)
    path = stage.store.archive.folder / "000001.parquet"
    path.write_bytes(path.read_bytes()[: int(left * path.stat().st_size)])
    seen, run = seen_by(stage, images, 3)
    assert seen == ["d", "e", "f"] and run.counts["made"] == 3
    assert f"{path} is damaged and is removed" in capsys.readouterr().err
    assert contents(stage.folder) == before


def test_damage_inside_a_shard_is_never_read_as_data(images, tmp_path):
    """Every byte in turn: the results are right, or an error names the file, or the run makes the images again."""
    stage = Parts(tmp_path / "out")
    run = run_stage(stage, images, 7)
    right = stage.results(run.current())
    path = stage.store.archive.folder / "000000.parquet"
    data = path.read_bytes()
    rng, refused = random.Random(0), 0
    for place in rng.sample(range(len(data)), 60):
        path.write_bytes(data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :])
        try:
            assert stage.results(run.current()) in (right, [])
        except UserError as error:
            refused += 1
            assert str(path) in str(error) and "remove the file" in str(error)
    assert refused > 10


@pytest.mark.parametrize("seen_again", ["e", None])
def test_a_result_that_cannot_be_seen_yet_keeps_its_block_in_files(images, tmp_path, seen_again):
    """As on a network drive: the worker has said "made", its file is not there, until later in the run or after it."""
    stage = Parts(tmp_path / "out")
    run_stage(stage, images, 5, settings="old")
    there, hidden = stage.store.folder / "b.json", tmp_path / "hidden.json"

    def hide(record):
        if record.image_id == "c":
            there.rename(hidden)
        elif record.image_id == seen_again:
            assert stage.count_loose() == 3, "a, c and d wait for b"
            hidden.rename(there)

    run_stage(stage, images, 5, each=hide)
    assert stage.count_loose() == (0 if seen_again else 4), "a, c, d and e wait for b"
    if not seen_again:
        hidden.rename(there)
    seen, run = seen_by(stage, images, 5)
    assert seen == ([] if seen_again else ["a", "b", "c", "d", "e"]) and run.counts["reused"] == len(NAMES)
    run_stage(fresh := Parts(tmp_path / "fresh"), images, 5)
    assert contents(stage.folder) == contents(fresh.folder)


@STAGES
def test_files_of_a_run_without_shards_are_taken_in(kind, images, tmp_path):
    stage, fresh = kind(tmp_path / "out"), kind(tmp_path / "fresh")
    run_stage(stage, images, 0)
    run = run_stage(stage, images, 3)
    assert run.counts["reused"] == len(NAMES)
    run_stage(fresh, images, 3)
    assert contents(stage.folder) == contents(fresh.folder)


@STAGES
def test_without_shard_size_shards_stay_and_what_is_new_comes_first(kind, images, tmp_path):
    stage = kind(tmp_path / "out")
    run_stage(stage, images, 3)
    before = copy_of(stage, tmp_path / "before")
    (images / "d.jpg").write_bytes(b"another picture")
    run = run_stage(stage, images, 0)
    assert (run.counts["made"], run.counts["reused"]) == (1, 6)
    run_stage(plain := kind(tmp_path / "plain"), images, 0)
    assert stage.results(run.current()) == plain.results(run.current()) != before.results(run.current())
    run_stage(stage, images, 3)
    run_stage(fresh := kind(tmp_path / "fresh"), images, 3)
    assert contents(stage.folder) == contents(fresh.folder)
