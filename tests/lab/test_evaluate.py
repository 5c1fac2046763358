import json

import numpy as np
import pytest
import torch

from pseudo_ris.cli.lab import evaluate as evaluate_command
from pseudo_ris.distinctiveness.nouns import RuleNounFinder
from pseudo_ris.errors import UserError
from pseudo_ris.lab import evaluate, workbench
from pseudo_ris.lab.workbench import Settings, Workbench
from pseudo_ris.records import Candidate
from pseudo_ris.world.grammar import full_caption
from pseudo_ris.world.judge import CaptionCounts, GroupCounts, MaskCounts, distinguishable
from pseudo_ris.world.scenes import draw_scene

SCENE = draw_scene("evaluation", 11, 0)
BENCH = Workbench(SCENE, "id", RuleNounFinder())


class EqualScorer:
    """Finds every text as good for every crop, so that DoC is 1 everywhere."""

    image_size = 8

    def embed_images(self, crops):
        return torch.ones(len(crops), 1)

    def embed_texts(self, texts):
        return torch.ones(len(texts), 1)

    def logits(self, images, texts):
        return images @ texts.T


@pytest.fixture
def knowing_captioner(monkeypatch):
    """Writes the whole truth when calibrated, only the category otherwise, and nonsense for every beam."""

    def write(captioner, image, masks, seg_ids, image_id, decoding, crops, listener):
        calibrated = decoding.calibration != "none"
        said = [full_caption(obj) if calibrated else f"the {obj.category}" for obj in SCENE.objects]
        return [[Candidate("hm", "masked", "beam"), Candidate(said[i], "masked", "top_k_5")] for i in seg_ids]

    monkeypatch.setattr(workbench, "write_candidates", write)
    monkeypatch.setattr(workbench, "cached_model", lambda kind, config: EqualScorer())


def test_each_kind_of_caption_is_judged_on_its_own(knowing_captioner):
    figures = evaluate.measure_captions(BENCH, Settings(), SCENE.masks)
    count = len(SCENE.objects)
    assert (figures.beam.captions, figures.beam.true, figures.beam.unique) == (count, 0, count)
    assert (figures.calibrated.captions, figures.calibrated.true) == (count, count)
    assert figures.calibrated.distinctive == distinguishable(SCENE)
    categories = [obj.category for obj in SCENE.objects]
    assert figures.plain.distinctive == sum(categories.count(category) == 1 for category in categories)
    assert (figures.candidates.captions, figures.candidates.true) == (2 * count, count)
    assert [kept.captions for kept in figures.kept] == [0] * len(evaluate.THRESHOLDS)


def test_without_masks_all_objects_are_missed():
    figures = evaluate.measure_captions(BENCH, Settings(), np.zeros((0, 256, 256), bool))
    assert figures.candidates == CaptionCounts(objects=len(SCENE.objects))
    assert figures.kept == (figures.candidates,) * len(evaluate.THRESHOLDS)


def test_summary_has_the_published_keys_and_is_json():
    def captions(distinctive):
        return CaptionCounts(10, 9, distinctive + 1, distinctive, 10, 8, 3)

    chosen = evaluate.THRESHOLDS.index(evaluate.RECOMMENDED_THRESHOLD)
    kept = tuple(captions(index) for index in range(len(evaluate.THRESHOLDS)))
    groups = GroupCounts(several=20, several_right=19, none=10, none_right=10)
    on_true = evaluate.CaptionFigures(captions(1), captions(2), captions(3), captions(4), kept, groups=groups)
    nothing = evaluate.CaptionFigures()
    figures = evaluate.SceneFigures(7, MaskCounts(10, 9, 9, 8, 6, 7.2), on_true, nothing)
    result = json.loads(json.dumps(evaluate.summary(figures, 2, 5, 1.23), allow_nan=False))
    expected = {
        "mask_recall_75": 0.6,
        "mask_mean_iou": 0.9,
        "objects_distinguishable": 0.7,
        "beam_true": 0.9,
        "unique_plain": 0.3,
        "unique_calibrated": 0.4,
        "distinctive_plain": 0.2,
        "distinctive_calibrated": 0.3,
        "distinctive_candidates": 0.4,
        "distinctive_kept": 0.0,
        "distinctive_kept_recommended": chosen / 10,
        "objects_kept_recommended": 0.8,
        "recommended_threshold": evaluate.RECOMMENDED_THRESHOLD,
        "several": 20,
        "several_wrong": 0.05,
        "no_target_wrong": 0.0,
        "scenes": 2,
        "seed": 5,
    }
    assert {name: result[name] for name in expected} == expected
    assert result["beam_true_predicted"] is None
    assert result["several_wrong_predicted"] is None
    assert "distinctive_kept_recommended_predicted" in result
    assert "recommended" in evaluate.table(figures)


@pytest.mark.parametrize(
    ("option", "value"), [("--scenes", "0"), ("--workers", "-1"), ("--seed", "-3"), ("--split", "train"), ("--seed", "x")]
)
def test_bad_options_are_refused(option, value, capsys):
    with pytest.raises(SystemExit) as stopped:
        evaluate_command.main([option, value])
    assert stopped.value.code == 2
    assert option in capsys.readouterr().err


def test_missing_weights_are_one_clear_error(tmp_path):
    with pytest.raises(UserError, match=r"cutler\.safetensors does not exist"):
        evaluate_command.main(["--scenes", "1", "--weights", str(tmp_path)])


@pytest.mark.slow
def test_the_result_does_not_depend_on_the_number_of_workers(capsys):
    results = []
    for workers in ("1", "2"):
        assert evaluate_command.main(["--scenes", "2", "--seed", "9", "--workers", workers]) == 0
        result = json.loads(capsys.readouterr().out.splitlines()[-1])
        result.pop("seconds")
        results.append(result)
    assert results[0] == results[1]
    assert results[0]["objects"] == sum(len(draw_scene("evaluation", 9, index).objects) for index in range(2))
    assert min(results[0]["mask_recall_75"], results[0]["beam_true"]) > 0.5  # far below what the model card says
