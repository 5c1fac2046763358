"""Images that come and go, and other shard sizes: rows move to where they belong, and none is made again or lost."""

import random

import pytest
from small_stages import Masks, Parts, contents, draw_images, run_stage

from pseudo_ris.io.images import list_images
from pseudo_ris.storage.compaction.archive import Archive

STAGES = pytest.mark.parametrize("kind", [Parts, Masks])
NAMES = ["b", "c", "d", "e", "f"]


@pytest.fixture
def images(tmp_path):
    return draw_images(tmp_path / "images", NAMES)


def looked_at(stage, images, size, **options):
    seen = []
    run_stage(stage, images, size, each=lambda record: seen.append(record.image_id), **options)
    return seen


def layout(stage):
    """Image ids by shard."""
    folder = stage.store.archive.folder
    found = {}
    for path in sorted(folder.glob("*.parquet")):
        alone = folder.parent / "alone"
        alone.mkdir()
        path.rename(alone / path.name)
        found[path.stem] = list(Archive(alone).image_ids())
        (alone / path.name).rename(path)
        alone.rmdir()
    return found


@STAGES
def test_images_in_between_move_the_others_on(kind, images, tmp_path):
    stage = kind(tmp_path / "out")
    run_stage(stage, images, 2)
    draw_images(images, ["a", "cc"])
    assert looked_at(stage, images, 2) == ["a", "cc"]
    run_stage(fresh := kind(tmp_path / "fresh"), images, 2)
    assert contents(stage.folder) == contents(fresh.folder)
    assert layout(stage)["000001"] == ["c", "cc"]


def test_images_at_the_end_move_nothing(images, tmp_path):
    stage = Parts(tmp_path / "out")
    run_stage(stage, images, 2)
    inodes = {path.name: path.stat().st_ino for path in stage.store.archive.folder.glob("*.parquet")}
    draw_images(images, ["g", "h"])
    assert looked_at(stage, images, 2) == ["g", "h"]
    kept = {path.name for path in stage.store.archive.folder.glob("*.parquet") if path.stat().st_ino == inodes.get(path.name)}
    assert kept == {"000000.parquet", "000001.parquet"}


@STAGES
def test_images_that_are_no_longer_listed_are_kept_and_come_back(kind, images, tmp_path):
    stage = kind(tmp_path / "out")
    run_stage(stage, images, 2)
    before = contents(stage.folder)
    times = {path.name: path.stat().st_mtime_ns for path in images.iterdir()}
    for name in ("b", "e", "f"):
        (images / f"{name}.jpg").rename(tmp_path / f"{name}.jpg")
    assert looked_at(stage, images, 2) == []
    assert layout(stage) == {"000000": ["c", "d"], "unlisted-000000": ["b", "e"], "unlisted-000001": ["f"]}
    for name in ("b", "e", "f"):
        (tmp_path / f"{name}.jpg").rename(images / f"{name}.jpg")
    assert times == {path.name: path.stat().st_mtime_ns for path in images.iterdir()}
    assert looked_at(stage, images, 2) == ["b", "e", "f"], "what is known of unlisted images is forgotten, not what they gave"
    assert contents(stage.folder) == before


@STAGES
@pytest.mark.parametrize("size", [1, 3, 100])
def test_another_shard_size_moves_all_rows(kind, images, tmp_path, size):
    stage = kind(tmp_path / "out")
    run_stage(stage, images, 2, bad=["c"])
    assert looked_at(stage, images, size, retry=True) == ["c"]
    run_stage(fresh := kind(tmp_path / "fresh"), images, size)
    assert contents(stage.folder) == contents(fresh.folder)


@pytest.mark.slow
def test_any_history_ends_as_a_fresh_run(images, tmp_path):
    """Nothing is made twice with the same settings, and listed images' shards are a fresh run's."""
    rng = random.Random(0)
    stage, pool = Parts(tmp_path / "out"), [f"{letter}{number}" for letter in "abc" for number in range(4)]
    made = set()
    for step in range(6):
        chosen = sorted(rng.sample(pool, rng.randint(1, len(pool))))
        source = draw_images(tmp_path / f"images{step}", chosen)
        bad = rng.sample(chosen, rng.randint(0, min(2, len(chosen))))
        run = run_stage(stage, source, rng.choice([2, 3, 5]), bad=bad, seed=rng.randrange(100))
        assert run.counts["made"] == len({*chosen} - made - {*bad})
        made |= {*chosen} - {*bad}
        assert {part.image_id for part in stage.results(list_images(source))} == made & {*chosen}
    assert {*Archive(stage.store.archive.folder).image_ids()} == made, "also those that are not listed"
