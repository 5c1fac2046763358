"""The drawn world as a REFER set: each expression singles its object out, splits are apart, one seed gives the same bytes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest

from pseudo_ris.cli.lab import refer_world as refer_world_command
from pseudo_ris.errors import UserError
from pseudo_ris.formats.refer_set import read_refer
from pseudo_ris.io.images import decode_image, list_images
from pseudo_ris.lab.refer_world import (
    FIRST_SCENE_SEED,
    LIVING,
    SCENE_SPLITS,
    draw_expressions,
    draw_world,
    kinds_of,
    write_world,
)
from pseudo_ris.ris.config import DataConfig
from pseudo_ris.ris.data.splits import split_targets, splits_of
from pseudo_ris.world.grammar import parse, referents
from pseudo_ris.world.scenes import CATEGORIES, Scene, SceneObject, draw_scene

SIZES = {"train": 5, "val": 3, "test": 6}
SEED = 4

RED_BALL = SceneObject("ball", "red", "striped", "large", (10, 10, 90, 90))
BLUE_BALL = SceneObject("ball", "blue", "plain", "small", (200, 20, 240, 60))
DUCK = SceneObject("duck", "orange", "dotted", "large", (150, 170, 250, 250))


def scene_of(*objects: SceneObject) -> Scene:
    return Scene(np.zeros((256, 256, 3), np.uint8), np.zeros((256, 256), np.uint8), objects)


@pytest.fixture(scope="module")
def world():
    return draw_world(SIZES, SEED, progress=False)


@pytest.fixture(scope="module")
def folder(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("worlds") / "out"
    write_world(world, out)
    return out


@pytest.fixture(scope="module")
def scenes():
    """All scenes of the world, by the image's number."""
    drawn = [draw_scene(SCENE_SPLITS[name], SEED + FIRST_SCENE_SEED, n) for name, size in SIZES.items() for n in range(size)]
    return dict(enumerate(drawn, start=1))


def test_what_is_read_is_what_was_drawn(folder, world):
    assert list(read_refer(folder)) == world.images
    assert [image.split for image in world.images[:8]] == ["train"] * 5 + ["val"] * 3


def test_every_expression_refers_to_its_object_and_to_no_other(folder, scenes):
    objects = 0
    for image in read_refer(folder):
        scene = scenes[int(image.image_id)]
        np.testing.assert_array_equal(decode_image(image.read(), image.name), scene.image)
        for ref in image.objects:
            (index,) = (n for n, mask in enumerate(scene.masks) if np.array_equal(mask, ref.mask.decode()))
            assert [referents(text, scene) for text in ref.sentences] == [(index,)] * len(ref.sentences)
            assert 1 <= len(set(ref.sentences)) == len(ref.sentences) <= 3
            objects += 1
    assert objects > 0.9 * sum(len(scene.objects) for scene in scenes.values())


def test_most_objects_have_two_or_three_expressions(world):
    counts = [len(ref.sentences) for image in world.images for ref in image.objects]
    assert {2, 3} <= set(counts)
    assert np.mean([count >= 2 for count in counts]) > 0.9


def test_splits_share_no_image_but_those_of_the_test(folder):
    found: dict[str, set[str]] = {}
    for image in read_refer(folder):
        found.setdefault(image.split.rstrip("AB"), set()).add(hashlib.sha1(image.read()).hexdigest())
    assert {split: len(digests) for split, digests in found.items()} == SIZES
    assert len(set.union(*found.values())) == sum(SIZES.values())


def test_test_a_asks_for_living_things_and_test_b_for_all_others(folder, scenes):
    asked = {split: [] for split in ("testA", "testB")}
    for image in read_refer(folder):
        if image.split in asked:
            assert image.objects
            asked[image.split] += [(ref.ref_id, parse(ref.sentences[0]).category) for ref in image.objects]
    categories = {split: {category for _, category in refs} for split, refs in asked.items()}
    assert set(CATEGORIES) > LIVING
    assert categories["testA"] and categories["testA"] <= LIVING
    assert categories["testB"] and not categories["testB"] & LIVING
    assert len({ref_id for refs in asked.values() for ref_id, _ in refs}) == sum(map(len, asked.values()))


def test_the_folders_of_images_give_the_ids_of_the_set(folder):
    ids = {image.name: image.image_id for image in read_refer(folder)}
    for name, size in SIZES.items():
        records = list_images(folder / "images" / name)
        assert {f"{name}/{record.name}": record.image_id for record in records}.items() <= ids.items()
        assert len(records) == size


def test_stage_3_reads_the_splits_with_the_kinds_of_every_sentence(folder, world):
    config = DataConfig(dataset="drawn", refer_root=str(folder), images=str(folder / "images"))
    assert splits_of(config) == ["train", "val", "testA", "testB"]
    targets = [target for split in splits_of(config) for target in split_targets(config, split)]
    refs = [ref for image in world.images for ref in image.objects]
    assert [target.tags for target in targets] == [tuple(world.kinds[n] for n in ref.sent_ids) for ref in refs]
    assert sum(len(target.sentences) for target in targets) == len(world.kinds)


@pytest.mark.parametrize(
    ("text", "objects", "kinds"),
    [
        ("the red ball", (RED_BALL, DUCK), ("attribute", "no look-alikes")),
        ("the red ball", (RED_BALL, BLUE_BALL, DUCK), ("attribute", "2 look-alikes")),
        ("the ball on the left", (RED_BALL, BLUE_BALL, BLUE_BALL), ("position", "3 look-alikes")),
        ("the leftmost ball", (RED_BALL, BLUE_BALL), ("position", "2 look-alikes")),
        ("the ball with stripes on the ground", (RED_BALL, BLUE_BALL), ("attribute", "2 look-alikes")),
    ],
)
def test_kinds_say_whether_a_place_is_named_and_how_many_look_alike(text, objects, kinds):
    assert kinds_of(text, scene_of(*objects), 0) == kinds


def test_objects_that_nothing_tells_apart_have_no_expression():
    twins = scene_of(RED_BALL, RED_BALL, DUCK)
    rng = np.random.default_rng(0)
    assert draw_expressions(twins, 0, rng) == draw_expressions(twins, 1, rng) == ()
    assert len(draw_expressions(twins, 2, rng)) >= 2
    apart = scene_of(RED_BALL, replace(RED_BALL, box=(150, 10, 230, 90)))
    for text in draw_expressions(apart, 0, rng):
        assert parse(text).position or parse(text).superlative


def test_no_scene_is_one_that_the_embedded_models_were_trained_on(scenes):
    assert not any(np.array_equal(draw_scene("train", 0, n).image, scenes[n + 1].image) for n in range(SIZES["train"]))


def files_in(folder) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_the_command_gives_the_same_bytes_for_the_same_seed(folder, tmp_path, capsys):
    sizes = [part for name, size in SIZES.items() for part in (f"--{name}", str(size))]
    assert refer_world_command.main(["--out", str(tmp_path / "again"), *sizes, "--seed", str(SEED)]) == 0
    assert files_in(tmp_path / "again") == files_in(folder)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["train", "5", "images"]
    assert lines[-1] == f"written to {tmp_path / 'again'}"
    refer_world_command.main(["--out", str(tmp_path / "other"), *sizes, "--seed", str(SEED + 1)])
    kept = [name for name, data in files_in(tmp_path / "other").items() if files_in(folder).get(name) == data]
    assert kept == []


@pytest.mark.slow
def test_workers_change_nothing(world):
    drawn = draw_world(SIZES, SEED, workers=2, progress=False)
    assert (drawn.images, drawn.kinds) == (world.images, world.kinds)
    assert all(one.read() == other.read() for one, other in zip(drawn.images, world.images, strict=True))


def test_a_folder_that_exists_is_left_alone(folder):
    before = json.loads((folder / "drawn" / "kinds.json").read_text())
    with pytest.raises(UserError, match="already exists; choose another path or remove it first"):
        refer_world_command.main(["--out", str(folder)])
    assert json.loads((folder / "drawn" / "kinds.json").read_text()) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--train", "0"], "--train 0: must be 1 or more"),
        (["--test", "-3"], "--test -3: must be 1 or more"),
        (["--seed", "-1"], "--seed -1: must be from 0 to"),
        (["--seed", str(2**32)], "--seed 4294967296: must be from 0 to"),
    ],
)
def test_numbers_out_of_range_are_refused(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        refer_world_command.main(["--out", str(tmp_path / "out"), *options])
    assert not list(tmp_path.iterdir())
