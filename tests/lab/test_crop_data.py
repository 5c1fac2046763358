"""Training crops of the demo CoCa and CLIP: what is cut, what is drawn, what is true of what."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from pseudo_ris.captions.crops import CROP_SETS, cut_crop
from pseudo_ris.config import CropConfig
from pseudo_ris.lab import crop_data
from pseudo_ris.lab.crop_data import MAX_EDGE_ERROR, MAX_SPILL, CropSource, Target, disturb_mask, truth_matrix
from pseudo_ris.world.grammar import full_caption, is_true, sample_caption
from pseudo_ris.world.scene_set import SceneSet, build_scene_set
from pseudo_ris.world.scenes import SceneObject

SIZE = 32


@pytest.fixture(scope="module")
def scenes():
    return build_scene_set("validation", seed=5, count=6, progress=False)


def test_all_objects_with_words_are_targets(scenes):
    nameless = SceneObject("", "", "", "", (0, 0, 5, 5))
    objects = [*scenes.objects[:-1], (nameless, *scenes.objects[-1][1:])]
    source = CropSource(SceneSet(scenes.images, scenes.label_maps, objects), SIZE)
    assert [target.label for target in source.targets_of_scene[-1]] == list(range(2, len(objects[-1]) + 1))
    assert sum(map(len, source.targets_of_scene)) == sum(map(len, objects)) - 1


def test_scenes_are_drawn_whole_and_once(scenes):
    source = CropSource(scenes, SIZE)
    everything = sum(map(len, source.targets_of_scene))
    targets = source.draw_scenes(np.random.default_rng(0), everything + 10)
    assert sorted((t.scene, t.label) for t in targets) == [(t.scene, t.label) for own in source.targets_of_scene for t in own]
    changes = sum(a.scene != b.scene for a, b in pairwise(targets))
    assert changes == len(scenes) - 1
    few = source.draw_scenes(np.random.default_rng(0), 7)
    assert few == targets[:7]


@pytest.mark.parametrize("crop_set", CROP_SETS)
def test_a_crop_is_what_is_cut_at_use_up_to_mirroring(scenes, crop_set):
    source = CropSource(scenes, SIZE, {"none": 1.0})
    target = source.targets_of_scene[2][0]
    expected = cut_crop(scenes.images[2], scenes[2].masks[0], crop_set, SIZE, CropConfig())
    crops = source.cut([target] * 16, [crop_set] * 16, np.random.default_rng(0))
    mirrored = [torch.equal(crop, expected.flip(2)) for crop in crops]
    assert crops.shape == (16, 3, SIZE, SIZE)
    assert all(torch.equal(crop, expected) or flipped for crop, flipped in zip(crops, mirrored, strict=True))
    assert 0 < sum(mirrored) < 16


def test_crops_depend_on_the_generator_only(scenes):
    source = CropSource(scenes, SIZE)
    targets = source.draw_scenes(np.random.default_rng(1), 12)
    first, again, other = (source.cut(targets, ["masked"] * 12, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def errors(kind: str, mask: np.ndarray, others: np.ndarray) -> np.ndarray:
    """200 wrong masks of an object, with one kind of error: bool [200, H, W]."""
    return np.stack([disturb_mask(mask, others, {kind: 1.0}, np.random.default_rng(seed)) for seed in range(200)])


@pytest.fixture
def square() -> np.ndarray:
    mask = np.zeros((60, 60), bool)
    mask[20:40, 20:40] = True
    return mask


@pytest.fixture
def beside() -> np.ndarray:
    mask = np.zeros((60, 60), bool)
    mask[:, 40:] = True
    return mask


def inside_of(mask: np.ndarray, distance: int) -> bool:
    """Whether no pixel lies farther from the square than `distance`, upwards, downwards and to the left."""
    outside = np.ones_like(mask)
    outside[20 - distance : 40 + distance, 20 - distance :] = False
    return not (mask & outside).any()


def test_edges_move_by_a_few_pixels_only(square, beside):
    wrong = errors("edge", square, beside)
    core = np.s_[20 + MAX_EDGE_ERROR : 40 - MAX_EDGE_ERROR]
    assert wrong[:, core, core].all()
    assert all(inside_of(mask, MAX_EDGE_ERROR) and not mask[:, 40 + MAX_EDGE_ERROR :].any() for mask in wrong)
    areas = set(wrong.sum((1, 2)))
    assert min(areas) < square.sum() < max(areas)
    assert square.sum() in areas


def test_spilt_masks_take_in_pixels_of_the_other_objects(square, beside):
    wrong = errors("spill", square, beside)
    spilt = (wrong & beside).sum((1, 2))
    assert (spilt > 0).mean() > 0.9
    assert spilt.max() > 3 * spilt.min()
    wrong[:, :, 40 - MAX_EDGE_ERROR : 40] = False  # where the edge of what was taken in moves, too
    assert all(inside_of(mask, MAX_EDGE_ERROR) for mask in wrong & ~beside)
    assert not wrong[:, :, 40 + MAX_SPILL + MAX_EDGE_ERROR :].any()
    alone = errors("spill", square, np.zeros_like(square))
    assert not alone[:, :, 40 + MAX_EDGE_ERROR :].any()


def test_cut_masks_miss_one_side(square, beside):
    missing = (square & ~errors("cut", square, beside)).sum((1, 2)) / square.sum()
    assert missing.min() < 0.05
    assert 0.3 < missing.max() < 0.65  # a third, and the edge


def test_no_error_is_the_mask_itself(square, beside):
    assert all(np.array_equal(mask, square) for mask in errors("none", square, beside))


@pytest.mark.parametrize("kind", crop_data.MASK_ERRORS)
def test_wrong_masks_are_never_empty(kind):
    mask = np.zeros((9, 9), bool)
    mask[4, 4] = True
    assert errors(kind, mask, np.zeros_like(mask)).any((1, 2)).all()


def test_truth_matrix_is_the_grammars_truth(scenes):
    rng = np.random.default_rng(0)
    targets = [target for own in CropSource(scenes, SIZE).targets_of_scene for target in own]
    texts = [sample_caption(target.attributes, rng) for target in targets for _ in range(3)]
    texts += [full_caption(target.attributes) for target in targets] + ["not grammatical", "a photo of a ball"]
    expected = [[is_true(text, target.attributes) for target in targets] for text in texts]
    truth = truth_matrix(texts, targets)
    assert truth.dtype == torch.bool
    assert truth.tolist() == expected
    assert any(sum(row) > 1 for row in expected), "no ambiguous text: the test says little"


def test_a_text_that_names_another_colour_is_untrue():
    ball = Target(0, 1, SceneObject("ball", "red", "plain", "small", (0, 0, 4, 4)))
    texts = ["a red ball", "a blue ball", "a small ball", "a ball with dots", "a plain boat"]
    assert truth_matrix(texts, [ball]).flatten().tolist() == [True, False, True, False, False]
