"""Zero-shot segmentation: against open_clip's and a full forward pass of CoCa, crop by crop."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from pseudo_ris.captions.crops import OBJECT_VIEWS, cut_crop
from pseudo_ris.cli.main import main
from pseudo_ris.lab.refer_world import draw_world, write_world
from pseudo_ris.stages.pipeline import Pipeline
from pseudo_ris.stages.zero_shot import ZeroShot
from pseudo_ris.world.scenes import draw_scene

SENTENCES = ["a red ball", "the small striped duck in the picture", "a tree"]


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline.from_preset("demo", device="cpu")


@pytest.fixture(scope="module")
def scene():
    return draw_scene("validation", 3, 1)


@torch.no_grad()
def test_clip_judges_by_the_cosines_of_both_crops(pipeline, scene):
    model, config = pipeline.scorer.model, pipeline.caption_settings.crops
    texts = normalize(model.encode_text(pipeline.scorer.tokenizer(SENTENCES)), dim=1)
    expected = torch.zeros(len(SENTENCES), len(scene.masks))
    for column, mask in enumerate(scene.masks):
        for crops in OBJECT_VIEWS:
            crop = cut_crop(scene.image, mask, crops, pipeline.scorer.image_size, config)
            expected[:, column] += texts @ normalize(model.encode_image(crop[None]), dim=1)[0]
    found = ZeroShot(pipeline).scores(scene.image, np.array(scene.masks), SENTENCES)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_listener_judges_by_the_likelihood_of_the_whole_sentence(pipeline, scene):
    captioner, config = pipeline.captioner, pipeline.caption_settings.crops
    expected = torch.zeros(len(SENTENCES), len(scene.masks))
    for row, sentence in enumerate(SENTENCES):
        ids = torch.tensor([[captioner.start, *captioner.tokenizer.encode(sentence), captioner.end]])
        for column, mask in enumerate(scene.masks):
            for crops in OBJECT_VIEWS:
                crop = cut_crop(scene.image, mask, crops, captioner.image_size, config)
                logits = captioner.model(crop[None], ids)["logits"][0]  # it reads no last token
                logs = logits.log_softmax(-1)
                expected[row, column] += logs[torch.arange(len(logs)), ids[0, 1:]].sum()
    found = ZeroShot(pipeline, "listener").scores(scene.image, np.array(scene.masks), SENTENCES)
    torch.testing.assert_close(found.float(), expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("judge", ["clip", "listener"])
def test_a_sentence_gets_the_mask_with_the_best_score_or_none(pipeline, scene, judge):
    zero_shot = ZeroShot(pipeline, judge)
    found = np.array([record.mask for record in pipeline.find_masks(scene.image)])
    best = zero_shot.scores(scene.image, found, SENTENCES).argmax(1)
    np.testing.assert_array_equal(zero_shot.segment(scene.image, SENTENCES), found[best.numpy()])
    assert not zero_shot.segment(np.full((64, 64, 3), 128, np.uint8), SENTENCES).any()


def test_it_is_evaluated_by_the_command_of_trained_models(tmp_path, capsys):
    world = draw_world({"train": 1, "val": 2, "test": 1}, seed=3, progress=False)
    write_world(world, tmp_path / "world")
    place = [f"--refer_root={tmp_path / 'world'}", f"--images={tmp_path / 'world' / 'images'}", "--dataset=drawn"]
    assert main(["evaluate", "--model=zero-shot", "--splits=val", *place, f"--predictions={tmp_path / 'out'}"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    val = figures["splits"]["val"]
    assert figures["model"] == "zero-shot" and figures["dataset"] == "drawn"
    assert val["original"]["count"] > 5 and val["original"] == val["model_size"]
    assert 0.3 < val["original"]["mIoU"] < 1
    assert len(list((tmp_path / "out" / "val").glob("*.png"))) == val["original"]["count"]
