"""Drawn scenes: determinism, separate streams, consistent ground truth, look-alikes, COCO form."""

import json
from pathlib import Path

import numpy as np
import pytest

from pseudo_ris.cli.lab import draw_scenes
from pseudo_ris.errors import UserError
from pseudo_ris.world.coco_writer import load_coco_scenes, write_coco_scenes
from pseudo_ris.world.judge import distinguishable
from pseudo_ris.world.painting import Light, cut_out, named_material
from pseudo_ris.world.scene_set import SceneSet, build_scene_set
from pseudo_ris.world.scenes import (
    CATEGORIES,
    COLOURS,
    MIN_VISIBLE_PIXELS,
    MIN_VISIBLE_SHARE,
    PATTERNS,
    SIZE,
    SIZES,
    SPLITS,
    _Layout,
    draw_look_alikes,
    draw_scene,
    scene_rng,
)
from pseudo_ris.world.shapes import category_silhouette

SHIPPED = Path(__file__).parents[2] / "datasets" / "demo"


@pytest.fixture(scope="module")
def scenes():
    return [draw_scene("validation", 11, index) for index in range(40)]


@pytest.fixture(scope="module")
def free_scenes():
    return [draw_scene("validation", 11, index, free_forms=True) for index in range(15)]


def words(obj):
    return obj.category, obj.colour, obj.pattern, obj.size


def same_scene(first, second):
    return (
        np.array_equal(first.image, second.image)
        and np.array_equal(first.label_map, second.label_map)
        and first.objects == second.objects
    )


def test_vocabulary_is_as_large_as_promised():
    assert len(CATEGORIES) >= 12 and len(COLOURS) == 8 and len(PATTERNS) == 3 and len(SIZES) == 2
    assert all(name.isalpha() for name in CATEGORIES)


@pytest.mark.parametrize("free_forms", [False, True])
def test_same_arguments_draw_the_same_scene(free_forms):
    assert same_scene(draw_scene("train", 3, 5, free_forms), draw_scene("train", 3, 5, free_forms))


def test_every_argument_changes_the_stream():
    keys = [
        (split, seed, index, free, look_alikes)
        for split in SPLITS
        for seed in (0, 1, 2, 3, 4, 2**32 - 1)
        for index in (0, 1, 2, 3, 4)
        for free, look_alikes in ((False, 0), (True, 0), (False, 2), (False, 3))
    ]
    draws = {tuple(scene_rng(*key).integers(0, 2**63, 4).tolist()) for key in keys}
    assert len(draws) == len(keys)


@pytest.mark.parametrize("count", [2, 5, 8])
def test_look_alikes_have_one_category_and_words_that_tell_them_apart(count):
    for index in range(4):
        scene = draw_look_alikes("validation", 7, index, count)
        assert len(scene.objects) == count == distinguishable(scene)
        assert len({obj.category for obj in scene.objects}) == 1
        assert same_scene(scene, draw_look_alikes("validation", 7, index, count))


@pytest.mark.parametrize("count", [1, 9])
def test_a_number_of_look_alikes_that_need_not_fit_is_refused(count):
    with pytest.raises(ValueError, match="count"):
        draw_look_alikes("validation", 7, 0, count)


def test_splits_do_not_share_scenes():
    images = {draw_scene(split, seed, 0).image.tobytes() for split in SPLITS for seed in (0, 1, 2)}
    assert len(images) == 3 * len(SPLITS)


@pytest.mark.parametrize(
    ("arguments", "field"), [(("test", 0, 0), "split"), (("train", -1, 0), "seed"), (("train", 2**32, 0), "seed")]
)
def test_bad_stream_is_refused(arguments, field):
    with pytest.raises(ValueError, match=field):
        draw_scene(*arguments)


def test_ground_truth_is_consistent(scenes, free_scenes):
    for scene in scenes + free_scenes:
        assert scene.image.shape == (SIZE, SIZE, 3) and scene.image.dtype == np.uint8
        assert scene.label_map.shape == (SIZE, SIZE) and scene.label_map.dtype == np.uint8
        assert scene.label_map.max() == len(scene.objects)
        assert scene.masks.shape == (len(scene.objects), SIZE, SIZE) and scene.masks.dtype == bool
        for obj, mask in zip(scene.objects, scene.masks, strict=True):
            assert mask.sum() >= MIN_VISIBLE_PIXELS
            x0, y0, x1, y1 = obj.box
            outside = mask.copy()
            outside[y0:y1, x0:x1] = False
            assert not outside.any()
            edges = mask[y0, :], mask[y1 - 1, :], mask[:, x0], mask[:, x1 - 1]
            assert all(edge.any() for edge in edges)


def test_ordinary_scenes_have_2_to_8_named_objects(scenes):
    counts = {len(scene.objects) for scene in scenes}
    assert min(counts) >= 2 and max(counts) <= 8 and len(counts) >= 5
    for scene in scenes:
        for obj in scene.objects:
            assert obj.category in CATEGORIES and obj.colour in COLOURS
            assert obj.pattern in PATTERNS and obj.size in SIZES


def test_sizes_are_apart(scenes):
    # Visible boxes of small objects never exceed their full length; hidden large ones may be shorter than drawn.
    lengths = {size: [] for size in SIZES}
    for scene in scenes:
        for obj in scene.objects:
            x0, y0, x1, y1 = obj.box
            lengths[obj.size].append(max(x1 - x0, y1 - y0))
    assert max(lengths["small"]) <= 44 < np.percentile(lengths["large"], 5)
    assert max(lengths["large"]) <= 106


def test_free_scenes_hold_forms_without_a_category(free_scenes):
    objects = [obj for scene in free_scenes for obj in scene.objects]
    nameless = [obj for obj in objects if words(obj) == ("", "", "", "")]
    assert 0.4 < len(nameless) / len(objects) < 1.0
    assert all(obj.category for obj in objects if words(obj) != ("", "", "", ""))


def test_no_object_may_hide_more_than_half_of_another():
    rng = np.random.default_rng(0)
    light = Light(np.array([0.0, -0.6, 0.8], np.float32), 0.3, 0.2)

    def paint(length):
        return None, cut_out(category_silhouette("ball", rng), length, named_material("red", "plain", rng), light, rng)

    layout = _Layout(border=0.0)
    areas = []
    for length in rng.uniform(40, 130, 40):
        painted = paint(length)
        if layout.try_to_place(painted, rng):
            areas.append(int(painted[1].solid.sum()))
    assert 2 <= len(areas) < 40
    visible = np.bincount(layout.label_map.ravel())[1:]
    assert np.all(visible >= MIN_VISIBLE_SHARE * np.array(areas))
    assert np.any(visible < areas)


def test_colours_can_be_read_from_the_pixels(scenes):
    """The median pixel of a plain object is nearest to its own colour's typical pixel, judged without its outline."""
    samples = {colour: [] for colour in COLOURS}
    for scene in scenes:
        for obj, mask in zip(scene.objects, scene.masks, strict=True):
            if obj.pattern == "plain" and obj.category in ("ball", "heart", "star", "flower"):
                samples[obj.colour].append(np.median(scene.image[mask], axis=0))
    typical = {colour: np.mean(pixels, axis=0) for colour, pixels in samples.items() if pixels}
    assert len(typical) >= 6
    right = [
        min(typical, key=lambda name: np.linalg.norm(typical[name] - pixel)) == colour
        for colour, pixels in samples.items()
        for pixel in pixels
    ]
    assert np.mean(right) >= 0.95


@pytest.mark.slow
def test_look_alikes_are_frequent_and_twins_rare():
    objects = twins = alone = same_category_and_colour = 0
    for index in range(100):
        scene = draw_scene("validation", 12, index)
        for position, obj in enumerate(scene.objects):
            others = scene.objects[:position] + scene.objects[position + 1 :]
            objects += 1
            twins += any(words(other) == words(obj) for other in others)
            alone += all(other.category != obj.category for other in others)
            same_category_and_colour += any((other.category, other.colour) == (obj.category, obj.colour) for other in others)
    assert 0.04 <= twins / objects <= 0.18
    assert 0.18 <= alone / objects <= 0.35
    assert same_category_and_colour / objects >= 0.3


def test_scene_set_round_trip(tmp_path):
    built = build_scene_set("train", 4, 3, progress=False)
    built.save(tmp_path / "scenes")
    loaded = SceneSet.load(tmp_path / "scenes")
    assert len(loaded) == 3
    for index, scene in enumerate(loaded):
        assert same_scene(scene, draw_scene("train", 4, index))
    with pytest.raises(UserError, match=r"images\.npy"):
        SceneSet.load(tmp_path)


@pytest.mark.slow
def test_workers_build_the_same_set():
    one = build_scene_set("train", 4, 10, free_forms=True, progress=False)
    two = build_scene_set("train", 4, 10, free_forms=True, workers=2, progress=False)
    assert np.array_equal(one.images, two.images) and np.array_equal(one.label_maps, two.label_maps)
    assert one.objects == two.objects


def test_coco_round_trip(tmp_path, scenes):
    write_coco_scenes(scenes[:5], tmp_path)
    loaded = load_coco_scenes(tmp_path)
    assert [name for name, _ in loaded] == [f"scene_{index:05d}.png" for index in range(5)]
    assert all(same_scene(scene, original) for (_, scene), original in zip(loaded, scenes, strict=False))


def test_coco_file_is_read_by_pycocotools(tmp_path, scenes, capsys):
    from pycocotools.coco import COCO

    coco = COCO(str(write_coco_scenes(scenes[:3], tmp_path)))
    annotations = coco.loadAnns(coco.getAnnIds(imgIds=[2]))
    assert len(annotations) == len(scenes[1].objects)
    for annotation, obj, mask in zip(annotations, scenes[1].objects, scenes[1].masks, strict=True):
        assert np.array_equal(coco.annToMask(annotation).astype(bool), mask)
        assert annotation["area"] == mask.sum() and annotation["iscrowd"] == 0
        assert annotation["attributes"] == {"colour": obj.colour, "pattern": obj.pattern, "size": obj.size}
        assert coco.cats[annotation["category_id"]]["name"] == obj.category


def test_an_existing_folder_is_not_overwritten(tmp_path, scenes):
    write_coco_scenes(scenes[:1], tmp_path)
    with pytest.raises(UserError, match="already exists"):
        write_coco_scenes(scenes[1:2], tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "instances.json").unlink(), "cannot be read"),
        (lambda folder: (folder / "instances.json").write_text("{"), "is not JSON"),
        (lambda folder: (folder / "instances.json").write_text("{}"), "categories"),
        (lambda folder: (folder / "images" / "scene_00000.png").write_bytes(b""), "scene_00000.png"),
        (lambda folder: (folder / "images" / "scene_00000.png").unlink(), "scene_00000.png"),
    ],
)
def test_a_damaged_folder_is_named(tmp_path, scenes, damage, message):
    write_coco_scenes(scenes[:1], tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=message):
        load_coco_scenes(tmp_path)


def test_command_writes_the_scenes_of_its_seed(tmp_path):
    arguments = ["--count", "2", "--seed", "9", "--split", "evaluation", "--out", str(tmp_path / "out")]
    assert draw_scenes.main(arguments) == 0
    loaded = load_coco_scenes(tmp_path / "out")
    assert all(same_scene(scene, draw_scene("evaluation", 9, index)) for index, (_, scene) in enumerate(loaded))
    with pytest.raises(UserError, match="already exists"):
        draw_scenes.main(arguments)


def test_shipped_scenes():
    loaded = load_coco_scenes(SHIPPED)
    assert len(loaded) == 24
    assert json.loads((SHIPPED / "instances.json").read_text())["info"]["description"].startswith("drawn scenes, split demo")
    for index, (_, scene) in enumerate(loaded):
        drawn = draw_scene("demo", 0, index)
        assert [words(obj) for obj in scene.objects] == [words(obj) for obj in drawn.objects]
        # Another OpenCV build may round a contour pixel the other way.
        assert np.mean(scene.label_map != drawn.label_map) < 0.002
