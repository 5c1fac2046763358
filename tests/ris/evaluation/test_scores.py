"""Every sentence of every target is predicted and compared, at model size and at original size."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from functools import partial
from multiprocessing import active_children

import numpy as np
import pytest
import torch
from PIL import Image
from plain_models import Answering, ColourModel, block, given, painted, target

from pseudo_ris.errors import BadInputError, UserError
from pseudo_ris.io.images import decode_image
from pseudo_ris.ris.data.targets import Target
from pseudo_ris.ris.evaluation.metrics import Overlap
from pseudo_ris.ris.evaluation.scores import Prediction, Results, SentenceScore, at_original_size, tally
from pseudo_ris.ris.models.letterbox import frame_of

CPU = torch.device("cpu")


def scores_of(model, targets, batch_size=4, precision="fp32", **options) -> list[SentenceScore]:
    return tally(model, targets, batch_size=batch_size, precision=precision, device=CPU, **options)


def ellipse(height: int, width: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    middle, radius = random.uniform(0.35, 0.65, 2), random.uniform(0.15, 0.35, 2)
    return ((rows / height - middle[0]) / radius[0]) ** 2 + ((columns / width - middle[1]) / radius[1]) ** 2 < 1


def colourful_targets() -> list[Target]:
    """Nine sentences on five pictures of different sizes; the masks are not quite those that are painted."""
    targets = []
    for number, (height, width) in enumerate([(40, 60), (64, 64), (90, 30), (33, 71), (48, 48)]):
        shapes = [ellipse(height, width, seed) for seed in range(3 * number, 3 * number + 3)]
        sentences = ("red", "green thing", "blue one")[: 1 + number % 3]
        tags = tuple(("position",) if sentence == "red" else ("attribute", "2 look-alikes") for sentence in sentences)
        truth = np.roll(shapes[0], number, 1)
        targets.append(target(f"{number}.png, mask 0", painted(*shapes), truth, sentences, tags=tags))
    return targets


def test_overlaps_at_both_sizes_are_those_worked_out_by_hand():
    truth = block(64, 64, slice(0, 64), slice(0, 32))
    answer = block(32, 32, slice(0, 32), slice(0, 8))
    model = Answering(32, "stretch", [answer])
    assert scores_of(model, [target("a.png", painted(truth), truth)]) == [
        SentenceScore("a.png", 0, (), model_size=Overlap(8 * 32, 16 * 32), original=Overlap(16 * 64, 32 * 64))
    ]


def test_every_sentence_is_predicted_by_its_own_words():
    red, green = block(32, 32, slice(0, 16), slice(0, 32)), block(32, 32, slice(8, 24), slice(0, 32))
    scores = scores_of(ColourModel(32, "stretch"), [target("a.png", painted(red, green), red, ("red", "green", "blue"))])
    assert [(score.sentence, score.original) for score in scores] == [
        (0, Overlap(16 * 32, 16 * 32)),
        (1, Overlap(8 * 32, 24 * 32)),
        (2, Overlap(0, 16 * 32)),
    ]
    assert [score.original for score in scores] == [score.model_size for score in scores]


@pytest.mark.parametrize(("height", "width"), [(427, 640), (500, 333), (448, 448), (120, 91), (1000, 37)])
def test_truth_at_model_size_is_the_mask_resized_nearest_as_in_the_released_evaluator(height, width):
    truth = np.random.default_rng(0).random((height, width)) < 0.4
    resized = np.asarray(Image.fromarray(truth.astype(np.uint8)).resize((448, 448), Image.Resampling.NEAREST)) > 0
    (score,) = scores_of(Answering(448, "stretch", [resized]), [target("a.png", painted(truth), truth)])
    assert score.model_size == Overlap(int(resized.sum()), int(resized.sum()))


@pytest.mark.parametrize("frame", ["stretch", "letterbox"])
@pytest.mark.parametrize(("height", "width"), [(427, 640), (480, 300), (200, 260), (416, 416)])
def test_a_perfect_predictor_is_perfect_at_model_size_and_nearly_so_at_original_size(frame, height, width):
    truths = [ellipse(height, width, seed) for seed in range(3)]
    answers = [frame_of(frame, height, width, 416).mask(truth) > 0.5 for truth in truths]
    targets = [target(f"{number}.png", painted(truth), truth) for number, truth in enumerate(truths)]
    results = Results.of(scores_of(Answering(416, frame, answers), targets))
    assert results.model_size.named == {**dict.fromkeys(results.model_size.named, 1.0), "count": 3}
    assert results.original.oiou > 0.97
    assert results.original.precision == (1.0,) * 5


@pytest.mark.parametrize("frame", ["stretch", "letterbox"])
@pytest.mark.parametrize(("height", "width"), [(20, 31), (32, 32), (50, 17), (90, 120)])
def test_the_way_back_is_bilinear_interpolation_of_the_probability(frame, height, width):
    placed = frame_of(frame, height, width, 32)
    noise = np.random.default_rng(0).normal(0, 3, (32, 32)).astype(np.float32)
    expected = np.empty((height, width))
    probability = 1 / (1 + np.exp(-noise.astype(np.float64)))
    for row in range(height):
        for column in range(width):
            x, y = np.clip(placed.matrix @ (column, row, 1), 0, 31)
            left, top = min(int(x), 30), min(int(y), 30)
            weights = np.outer((top + 1 - y, y - top), (left + 1 - x, x - left))
            expected[row, column] = (weights * probability[top : top + 2, left : left + 2]).sum()
    mask = at_original_size(torch.from_numpy(noise), placed.inverse, height, width)
    clear = np.abs(expected - 0.5) > 0.04  # OpenCV rounds places to a 32nd of a pixel
    assert clear.mean() > 0.85
    np.testing.assert_array_equal(mask[clear], expected[clear] > 0.5)


@pytest.mark.parametrize("frame", ["stretch", "letterbox"])
def test_scores_do_not_depend_on_the_batch_size(frame):
    targets = colourful_targets()
    expected = scores_of(ColourModel(64, frame), targets, batch_size=1)
    assert [(score.target, score.sentence) for score in expected] == [
        (each.name, sentence) for each in targets for sentence in range(len(each.sentences))
    ]
    assert len({score.original.iou for score in expected}) == len(expected)
    for batch_size, batches in ((2, [2, 2, 2, 2, 1]), (4, [4, 4, 1]), (100, [9])):
        model = ColourModel(64, frame)
        assert scores_of(model, targets, batch_size) == expected
        assert model.batches == batches


@pytest.mark.slow
def test_workers_give_the_same_scores_in_the_same_order_and_name_what_cannot_be_read():
    targets, random = colourful_targets(), torch.get_rng_state()
    given: list[int] = []
    scores = scores_of(ColourModel(64, "letterbox"), targets, workers=2, predictions=lambda each: given.append(each.number))
    assert scores == scores_of(ColourModel(64, "letterbox"), targets)
    assert given == sorted(given) and set(given) == set(range(5))
    assert torch.equal(torch.get_rng_state(), random)
    broken = Target("b.png, mask 7", partial(decode_image, b"", "b.png"), targets[0].read_mask, ("red",))
    with pytest.raises(UserError, match=r"^cannot evaluate b\.png, mask 7: b\.png") as caught:
        scores_of(ColourModel(64, "letterbox"), [*targets, broken, *targets], workers=2)
    assert "\n" not in str(caught.value)
    assert not active_children()


def test_results_gathered_from_shards_are_those_of_one():
    targets = colourful_targets()
    model = ColourModel(64, "letterbox")
    shards = [pickle.loads(pickle.dumps(scores_of(model, targets[rank::3]))) for rank in range(3)]
    assert Results.of([score for shard in shards for score in shard]) == Results.of(scores_of(model, targets))


def test_a_shard_without_targets_has_no_scores():
    assert scores_of(ColourModel(32, "stretch"), []) == []
    with pytest.raises(UserError, match="no expression to evaluate"):
        Results.of([])


def test_results_are_broken_down_by_tag():
    results = Results.of(scores_of(ColourModel(64, "stretch"), colourful_targets()))
    assert {tag: found.original.count for tag, found in results.by_tag.items()} == {
        "2 look-alikes": 4,
        "attribute": 4,
        "position": 5,
    }
    assert results.model_size.count == 9
    assert results.by_tag["attribute"] == results.by_tag["2 look-alikes"]
    reds = [score for score in scores_of(ColourModel(64, "stretch"), colourful_targets()) if score.tags == ("position",)]
    assert results.by_tag["position"].original == Results.of(reds).original
    named = json.loads(json.dumps(results.named))
    assert named["by_tag"]["position"]["model_size"]["oIoU"] == results.by_tag["position"].model_size.oiou
    assert "by_tag" not in named["by_tag"]["position"]


def test_an_image_is_read_once_for_all_its_sentences():
    mask = block(32, 32, slice(0, 9), slice(0, 9))
    reads = []
    plain = target("a.png", painted(mask), mask, ("red",) * 5)
    noted = Target(plain.name, lambda: reads.append(1) or plain.read_image(), plain.read_mask, plain.sentences)
    assert len(scores_of(ColourModel(32, "stretch"), [noted], batch_size=2)) == 5
    assert len(reads) == 1


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_an_image_is_encoded_once_for_all_its_targets_and_scores_keep_their_order(batch_size):
    """Oracle: each target evaluated by itself."""
    targets = [replace(each, image=each.name) for each in colourful_targets()]
    others = [replace(each, name=f"{each.name} again", sentences=("blue", "red"), tags=()) for each in targets]
    mixed = [*targets, *reversed(others), replace(targets[0], folder="elsewhere")]
    model = ColourModel(64, "letterbox")
    assert scores_of(model, mixed, batch_size) == [
        score for each in mixed for score in scores_of(ColourModel(64, "letterbox"), [each])
    ]
    assert sum(model.images) == len(targets) + 1


def test_an_object_too_small_for_the_models_square_counts_as_missed_there():
    empty = np.zeros((32, 32), bool)
    vanished = block(64, 64, slice(0, 1), slice(0, 1))
    (score,) = scores_of(Answering(32, "stretch", [empty]), [target("a.png", painted(vanished), vanished)])
    assert score.model_size == Overlap(0, 0)
    assert Results.of([score]).model_size.miou == 0.0


def test_equal_logits_are_background():
    class Undecided(ColourModel):
        def foreground(self, images, tokens):
            return torch.zeros(images.shape[0], *images.shape[2:])

    mask = block(32, 32, slice(0, 16), slice(0, 32))
    (score,) = scores_of(Undecided(32, "stretch"), [target("a.png", painted(mask), mask)])
    assert (score.model_size, score.original) == (Overlap(0, 512), Overlap(0, 512))


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", None), ("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_passes_run_in_the_precision_asked_for(precision, dtype):
    model = ColourModel(32, "stretch")
    mask = block(32, 32, slice(0, 16), slice(0, 32))
    scores_of(model, [target("a.png", painted(mask), mask)], precision=precision)
    assert model.precisions == {dtype}


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_evaluated_in_eval_mode_and_left_as_it_was(training):
    model = ColourModel(32, "stretch").train(training)
    scores_of(model, colourful_targets())
    assert model.modes == {False}
    assert model.training is training


def test_each_prediction_is_handed_on_at_original_size():
    mask = block(40, 60, slice(5, 30), slice(10, 50))
    plain = target("a.png", painted(mask, ~mask), mask, ("red", "green"))
    got: list[Prediction] = []
    scores = scores_of(ColourModel(64, "letterbox"), [plain, plain], predictions=got.append)
    assert [(each.number, each.sentence, each.overlap) for each in got] == [
        (number, sentence, scores[2 * number + sentence].original) for number in range(2) for sentence in range(2)
    ]
    assert all(each.mask.shape == (40, 60) and (each.truth == mask).all() for each in got)
    assert got[0].overlap.iou > 0.9 and got[1].overlap.iou < 0.1


def test_a_target_that_cannot_be_read_ends_the_evaluation_and_is_named():
    def missing() -> bytes:
        raise BadInputError("b.png: no such file in photos; add it or give another folder")

    mask = block(32, 32, slice(0, 16), slice(0, 32))
    broken = Target("b.png, mask 7", missing, partial(given, mask), ("red",))
    with pytest.raises(UserError, match=r"cannot evaluate b\.png, mask 7: b\.png: no such file in photos"):
        scores_of(ColourModel(32, "stretch"), [*colourful_targets(), broken])


def test_logits_that_are_not_finite_are_no_masks():
    class Broken(ColourModel):
        def foreground(self, images, tokens):
            return super().foreground(images, tokens) * float("nan")

    with pytest.raises(UserError, match="--precision bf16: the model's output is not finite"):
        scores_of(Broken(32, "stretch"), colourful_targets(), precision="bf16")
